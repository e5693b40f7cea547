"""What FAISS's float32 sums can give: the bound on their rounding, and the assertions it allows."""

from dataclasses import dataclass

import faiss
import numpy as np
import torch
from features import features
from torch import Tensor

import flashmatch

METRICS = {"dot": faiss.METRIC_INNER_PRODUCT, "l2": faiss.METRIC_L2}
KINDS = ("gaussian", "integers", "relu", "heavy", "clustered", "identical", "zeros", "pixels")
WORST = np.finfo(np.float32).max


@dataclass(frozen=True)
class Problem:
    """All pairs: exact scores (Q, M), and how far FAISS's may be from them."""

    queries: Tensor
    prototypes: Tensor
    metric: str
    mask: Tensor | None = None  # (M,)

    @property
    def sign(self) -> int:
        return 1 if self.metric == "dot" else -1

    @property
    def scores(self) -> Tensor:
        q, p = self.queries.double(), self.prototypes.double()
        return q @ p.T if self.metric == "dot" else -(q[:, None] - p).square().sum(2)

    @property
    def error(self) -> Tensor:
        """(Q, M): gamma_n = n u / (1 - n u) times the sum of what is added, whatever the order.

        Source: Higham, Accuracy and Stability of Numerical Algorithms, section 3.1. FAISS takes
        |q|^2 + |p|^2 - 2 q.p for the distance where queries are many, unless there is a selector.
        """
        q, p = self.queries.double(), self.prototypes.double()
        expanded = len(q) >= faiss.cvar.distance_compute_blas_threshold and self.mask is None
        if self.metric == "dot":
            size, roundings = q.abs() @ p.abs().T, q.shape[1]
        elif expanded:
            squares = q.square().sum(1)[:, None] + p.square().sum(1)
            size, roundings = squares + 2 * (q.abs() @ p.abs().T), q.shape[1] + 2
        else:
            size, roundings = -self.scores, q.shape[1] + 2
        unit = roundings * 2.0**-24
        underflow = q.shape[1] * 2.0**-126
        return size * (unit / (1 - unit)) * (1 + 1e-6) + underflow  # 1e-6: this very evaluation

    @property
    def allowed(self) -> Tensor:
        """(Q, M) bool."""
        shape = (len(self.queries), len(self.prototypes))
        return torch.ones(shape, dtype=torch.bool) if self.mask is None else self.mask.expand(shape)


def assert_attainable(problem: Problem, found: tuple[np.ndarray, np.ndarray]) -> None:
    """Distances and positions that FAISS's sums can give."""
    values, indices = (torch.from_numpy(x) for x in found)
    scores, error, allowed = problem.scores, problem.error, problem.allowed
    there = indices >= 0
    assert torch.equal(there.sum(1), allowed.sum(1).clamp(max=indices.shape[1]))
    assert not (there[:, 1:] & ~there[:, :-1]).any()  # empty ranks come last
    assert (values[~there] == -problem.sign * WORST).all()
    assert (problem.sign * values.diff() <= 0).all()
    listed = torch.zeros(len(indices), allowed.shape[1] + 1, dtype=torch.int64)
    listed.scatter_add_(1, indices.masked_fill(~there, allowed.shape[1]), there.long())
    listed = listed[:, :-1]
    assert (listed <= allowed).all()  # none twice, none that may not match
    rows, ranks = there.nonzero(as_tuple=True)
    pairs = (rows, indices[rows, ranks])
    assert ((problem.sign * values[rows, ranks] - scores[pairs]).abs() <= error[pairs]).all()
    if allowed.shape[1]:
        last = (scores + error).masked_fill(listed == 0, torch.inf).amin(1)
        left_out = (scores - error).masked_fill(~allowed | (listed > 0), -torch.inf).amax(1)
        assert (left_out <= last).all()


def assert_agree(
    problem: Problem, theirs: tuple[np.ndarray, np.ndarray], mine: tuple[np.ndarray, np.ndarray]
) -> None:
    """FAISS's answer is attainable, ours exact; they differ where FAISS's rounding lets them."""
    assert_attainable(problem, theirs)
    values, indices = (torch.from_numpy(x) for x in mine)
    assert (values[indices < 0] == -problem.sign * WORST).all()
    matches = (problem.sign * values).masked_fill(indices < 0, -torch.inf), indices
    assert flashmatch.verify(
        problem.queries, problem.prototypes, matches, metric=problem.metric, mask=problem.mask
    )
    rows, ranks = np.nonzero(theirs[1] != mine[1])
    if len(rows) == 0:
        return
    scores, error = problem.scores, problem.error.masked_fill(~problem.allowed, 0).amax(1, True)
    apart = scores[rows, theirs[1][rows, ranks]] - scores[rows, mine[1][rows, ranks]]
    assert (apart.abs() <= 2 * error[rows, 0]).all()  # each list is at most one error off its ranks


def drawn(kind: str, rows: int, channels: int, generator: torch.Generator) -> Tensor:
    return features(kind, rows, channels, generator).float()
