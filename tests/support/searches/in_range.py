"""What a search within a threshold has to find: what a search for all finds, down to it."""

import torch
from problems import Problem, assert_exact
from torch import Tensor

from flashmatch import topk
from flashmatch.kernels import RangeMatches


def expected(
    problem: Problem, threshold: float | Tensor, limit: int | None = None, sort: bool = True
) -> RangeMatches:
    """From all scores, once they are the oracle's."""
    all_of_it = problem.replace(k=problem.rows)
    scores, indices = topk(problem.queries, problem.prototypes, problem.rows, **problem.options())
    assert_exact((scores, indices), all_of_it)
    least = torch.as_tensor(threshold, dtype=torch.float64).expand(len(scores))
    reached = (indices >= 0) & (scores.double() >= least[:, None])
    reached[:, limit:] &= limit is None
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), reached.sum(1).cumsum(0)])
    if not sort:
        order = indices.masked_fill(~reached, problem.rows).argsort(dim=1)
        scores, indices, reached = (part.gather(1, order) for part in (scores, indices, reached))
    return RangeMatches(offsets, indices[reached], scores[reached])


def assert_same(found: RangeMatches, wanted: RangeMatches) -> None:
    """To the bit."""
    for name, mine, theirs in zip(RangeMatches._fields, found, wanted, strict=True):
        assert mine.dtype == theirs.dtype, name
        assert mine.shape == theirs.shape, f"{name}: {tuple(mine.shape)}, not {tuple(theirs.shape)}"
        bits = torch.int32 if mine.dtype == torch.float32 else mine.dtype
        assert torch.equal(mine.cpu().view(bits), theirs.view(bits)), name


def thresholds(problem: Problem, share: float) -> float:
    """A score that about so many of the pairs reach; one of those that are there."""
    scores, indices = topk(problem.queries, problem.prototypes, problem.rows, **problem.options())
    found = scores[indices >= 0].sort(descending=True).values
    if not len(found):
        return 0.0
    return float(found[min(int(share * len(found)), len(found) - 1)])
