"""Which shortlists are proven: scores certain, in order, and nothing left out that could enter."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...contract import order
from ...proofs import bf16
from ...proofs.fp32 import LARGEST_NORM, Slack, upper_scores
from .queries import Queries


class Bounds(NamedTuple):
    """How far what some queries were screened for may be from what it stands for."""

    queries: Queries
    metric: str
    slack: Slack
    rounded: tuple[np.ndarray, float] | None
    """As ``bf16.reach`` has it, where products are in bf16."""

    def of(self, rows: Tensor) -> "Bounds":
        """Of the queries ``rows`` (n,)."""
        rounded = self.rounded and (self.rounded[0][rows.numpy()], self.rounded[1])
        return self._replace(queries=self.queries.of(rows), rounded=rounded)

    def left_out(self, looking_worst: np.ndarray, longest: float) -> np.ndarray:
        """(Q, 1) fp64: what no score exceeds of a prototype that looks no better than that."""
        nothing = looking_worst == -np.inf
        if nothing.any():
            looking_worst = np.where(nothing, np.float32(0), looking_worst)
        upper, norms, metric = self._screened(looking_worst), self.queries.norms, self.metric
        if self.rounded is not None:
            upper += bf16.reach(upper, norms, longest, metric, self.rounded)
        if metric == "cosine":
            upper += self.slack.of(1.0, 1.0)
        else:
            upper += self.slack.of(norms * (1 + 2.0**-20), np.full((1, 1), longest))
        scores = upper_scores(upper, norms, self.queries.wide.shape[1], metric)
        scores[nothing] = -np.inf
        return scores

    def hopeless(self, values: Tensor, longest: float, k: int) -> float:
        """The share of the first queries that cannot be proven, from what is listed (n, size)."""
        if not longest <= LARGEST_NORM:
            return 1.0
        some = self.of(torch.arange(len(values), device="cpu"))
        kth = some._screened(values.topk(k).values[:, -1:].numpy())
        if self.metric == "l2":
            kth = 2 * kth - some.queries.norms**2
        left_out = some.left_out(values.numpy().min(1, keepdims=True), longest)
        return float(((kth <= left_out) & (left_out > -np.inf)).mean())

    def _screened(self, values: np.ndarray) -> np.ndarray:
        """(Q, 1) fp64, in screen units, of products as they are listed."""
        wide = values.astype(np.float64)
        return wide / self.queries.lengths if self.metric == "cosine" else wide


Settle = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(n,) rows and columns of a shortlist -> their fp32 scores, as the contract has them."""


def certified(
    exact: np.ndarray,
    error: np.ndarray | float,
    indices: np.ndarray,
    left_out: np.ndarray | None,
    k: int,
    settle: Settle,
) -> tuple[Tensor, Tensor, np.ndarray | None]:
    """Scores (Q, k) fp32 and indices (Q, k) int64, and which queries (Q,) are not proven, if any.

    ``exact`` (Q, n) fp64 scores, -inf where nothing may match, each within ``error`` of any other
    fp64 evaluation. ``left_out`` (Q, 1) fp64: what no evaluation of any other prototype's exceeds;
    None where there are no others.

    An evaluation rounds to one fp32 number if both ends of its interval do; else ``settle`` says
    which it is. Rows that do not fall strictly are sorted, ties by index. What is left out cannot
    enter if its bound rounds to less than the k-th score.
    """
    low, high = (exact - error).astype(np.float32), (exact + error).astype(np.float32)
    low += np.float32(0)  # -0 and 0 are one score
    is_sure = low == high
    if not is_sure.all():
        rows, columns = (~is_sure).nonzero()
        low[rows, columns] = settle(rows, columns)
    scores, chosen = low[:, :k].copy(), indices[:, :k].copy()
    falls = (scores[:, :-1] > scores[:, 1:]).all(1) & (scores[:, -1] > -np.inf)
    if k < low.shape[1]:
        falls &= scores[:, -1] > low[:, k:].max(1)
    if not falls.all():
        rows = (~falls).nonzero()[0]
        scores[rows], chosen[rows] = _sorted(low[rows], indices[rows], k)
    unproven = None
    if left_out is not None:
        proven = scores[:, -1:] > left_out.astype(np.float32)
        if not proven.all():
            proven |= left_out == -np.inf
            unproven = None if proven.all() else ~proven[:, 0]
    return torch.from_numpy(scores), torch.from_numpy(chosen), unproven


def _sorted(scores: np.ndarray, indices: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best (Q, k) of (Q, n) in the one order; what may not match, at -inf, is none."""
    values = torch.from_numpy(scores)
    keys = order.pack(values, torch.from_numpy(indices))
    keys = keys.masked_fill_(values == -torch.inf, order.EMPTY).topk(k).values
    best, chosen = order.unpack(keys)
    return best.numpy(), chosen.numpy()
