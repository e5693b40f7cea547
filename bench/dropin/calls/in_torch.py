"""What a user of plain torch writes: scores in fp32, for some queries at a time, and a mask.

Each takes queries (Q, C) and prototypes (M, C), and has a comment where another way was slower.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from flashmatch.kernels import Matches, RangeMatches

QUERY_ROWS, PROTOTYPE_ROWS = 256, 4096
Refused = Callable[[slice], Tensor]
"""The mask (n, M) of some queries: True = may not match."""


def best(queries: Tensor, prototypes: Tensor, k: int, refused: Refused) -> Matches:
    """The k best of each query that may match."""
    found = [
        scores.masked_fill_(refused(part), -torch.inf).topk(k)
        for part, scores in scores_of(queries, prototypes)
    ]
    return Matches(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def best_label_by_label(
    queries: Tensor, prototypes: Tensor, k: int, own: Tensor, labels: Tensor
) -> Matches:
    """The k best of each query's label, by a product for each label, which has k or more.

    Labels come with the search, so that sorting by them belongs to it.
    """
    rows = labels.argsort(stable=True).split(labels.bincount().tolist())
    present, counts = own.unique(return_counts=True)
    asked = own.argsort(stable=True).split(counts.tolist())
    scores = torch.empty(len(queries), k)
    indices = torch.empty(len(queries), k, dtype=torch.int64)
    for label, some in zip(present.tolist(), asked, strict=True):
        members = rows[label]
        found = (queries[some] @ prototypes[members].T).topk(k)
        scores[some], indices[some] = found.values, members[found.indices]
    return Matches(scores, indices)


def best_groups(queries: Tensor, prototypes: Tensor, k: int, groups: Tensor, count: int) -> Matches:
    """The k groups whose best prototypes score highest, as indices, and these scores."""
    found = []
    for some in queries.split(QUERY_ROWS):
        scores = prototypes @ some.T  # whole rows are reduced: (n, M) took twice as long
        maxima = scores.new_full((count, len(some)), -torch.inf)
        maxima.scatter_reduce_(0, groups[:, None].expand_as(scores), scores, "amax")
        found.append(maxima.topk(k, dim=0))
    return Matches(*(torch.cat(parts, dim=1).T for parts in zip(*found, strict=True)))


def count_within(queries: Tensor, prototypes: Tensor, threshold: float) -> Tensor:
    """(Q,): some prototypes at a time, whose scores stay in the cache; half the time of queries."""
    counts = torch.zeros(len(queries), dtype=torch.int64)
    for some in prototypes.split(PROTOTYPE_ROWS):
        counts += (queries @ some.T >= threshold).sum(1)
    return counts


def within(queries: Tensor, prototypes: Tensor, threshold: float, refused: Refused) -> RangeMatches:
    """All that may match and reach the threshold, by index."""
    counts, indices, found = [], [], []
    for part, scores in scores_of(queries, prototypes):
        reached = (scores >= threshold).logical_and_(~refused(part))
        counts.append(reached.sum(1))
        indices.append(reached.nonzero()[:, 1])
        found.append(scores[reached])
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), torch.cat(counts).cumsum(0)])
    return RangeMatches(offsets, torch.cat(indices), torch.cat(found))


def scores_of(queries: Tensor, prototypes: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """The scores (n, M) of some queries at a time."""
    for start in range(0, len(queries), QUERY_ROWS):
        part = slice(start, start + QUERY_ROWS)
        yield part, queries[part] @ prototypes.T
