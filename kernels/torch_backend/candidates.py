"""The running result of one block of queries, and the candidates that may still enter it.

A candidate is a (query, index) pair with a proven interval around its score, in screen units. Its
k-th best lower bound is a threshold: a candidate whose upper bound lies below it is out. Only what
is left in the end is rescored, so that few more than k prototypes per query are read in fp64.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from ..contract import order
from ..contract.chunks import Rows
from ..proofs import fp32
from . import rescore
from .float_screen import FloatScreen

_LIMIT = 4
"""A pool of more candidates per wanted match is rescored at once, so that memory stays bounded."""

_LOWEST = torch.finfo(torch.float32).min
"""The threshold before there is any: it excludes only what may not match, whose value is -inf."""


class Candidates:
    """``threshold`` (Q,) fp32, in screen units, rises as candidates and exact keys come in.

    Rows come in the order of their indices.
    """

    def __init__(self, queries: Tensor, k: int, metric: str) -> None:
        """Finite ``queries`` (Q, C) as given."""
        self.queries, self.k, self.metric = queries, k, metric
        count = len(queries)
        self.lengths = queries.new_zeros(count, dtype=torch.float64)
        self.units = torch.ones_like(self.lengths)
        self.keys = queries.new_full((count, k), order.EMPTY, dtype=torch.int64)
        self.lower = queries.new_full((count, k), -torch.inf, dtype=torch.float32)
        self.threshold = queries.new_full((count,), _LOWEST, dtype=torch.float32)
        self.ahead = self.threshold.clone()  # the same for rows behind all that have exact keys
        self.full = False  # every query has a threshold from k candidates
        self.pool: list[tuple[Tensor, Tensor, Tensor]] = []  # queries, indices, upper bounds
        self.fresh: list[tuple[Tensor, Tensor]] = []  # queries, lower bounds not yet in self.lower
        self.size = 0
        self.rescored = 0  # pairs evaluated in fp64 so far

    def measured_by(self, screen: FloatScreen) -> None:
        """Bounds are in the units of ``screen``; it knows the queries' norms in them."""
        self.lengths, self.units = screen.lengths, screen.units

    def add(self, queries: Tensor, indices: Tensor, lower: Tensor, upper: Tensor) -> None:
        """Candidates (n,) with their bounds, fp32."""
        self.pool.append((queries, indices, upper))
        self.fresh.append((queries, lower))
        self.size += len(queries)

    def add_keys(self, keys: Tensor) -> None:
        """Exact keys (Q, n), EMPTY where a prototype may not match."""
        self.keys = torch.cat([self.keys, keys], 1).topk(self.k).values
        kth = order.scores_of(self.keys[:, -1])
        about = self.lengths, self.queries.shape[1], self.metric, self.units
        self._raise(fp32.threshold(kth, *about))
        ahead = fp32.threshold_ahead(kth, *about)
        ahead.masked_fill_(self.keys[:, -1] == order.EMPTY, _LOWEST)
        self.ahead = torch.maximum(self.ahead, ahead)

    def least(self) -> Tensor:
        """(Q,) fp32: what a row that comes now has to reach."""
        return torch.maximum(self.threshold, self.ahead)

    def raise_early(self, kth_lower: Tensor) -> None:
        """Use lower bounds (Q,), screen units, of the k-th best score."""
        about = self.lengths, self.metric, self.units
        self._raise(fp32.early_threshold(kth_lower, *about))

    def raise_threshold(self) -> None:
        """Raise the threshold by what came in."""
        if self.fresh:
            queries, lower = _joined(self.fresh)
            may_raise = lower >= self.threshold[queries]
            queries, lower = queries[may_raise], lower[may_raise]
            for block in _blocks(queries, lower, len(self.queries), -torch.inf):
                self.lower = torch.cat([self.lower, block], 1).topk(self.k).values
            self.fresh = []
            self.raise_early(self.lower[:, -1])

    def tighten(self, prototypes: Rows) -> None:
        """Raise the threshold, drop what it excludes, rescore if too much stays."""
        if not self.pool:
            return
        self.raise_threshold()
        queries, indices, upper = _joined(self.pool)
        stay = upper >= self.threshold[queries]
        self.pool = [(queries[stay], indices[stay], upper[stay])]
        self.size = len(self.pool[0][0])
        if self.crowded():
            self._rescore(prototypes)

    def crowded(self) -> bool:
        """Whether the pool has outgrown its share of memory."""
        return self.size > max(_LIMIT * self.keys.numel(), 1 << 16)

    def result(self, prototypes: Rows) -> Tensor:
        """The k best keys (Q, k), descending."""
        self.tighten(prototypes)
        self._rescore(prototypes)
        return self.keys

    def _raise(self, threshold: Tensor) -> None:
        self.threshold = torch.maximum(self.threshold, threshold)
        if not self.full:
            self.full = bool((self.threshold > _LOWEST).all())

    def _rescore(self, prototypes: Rows) -> None:
        if self.size:
            queries, indices, _ = _joined(self.pool)
            self.rescored += len(queries)
            scores = rescore.pairs(self.queries, prototypes, queries, indices, self.metric)
            keys = order.pack(scores, indices)
            for block in _blocks(queries, keys, len(self.queries), order.EMPTY):
                self.add_keys(block)
        self.pool, self.size = [], 0


def _joined(parts: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    return parts[0] if len(parts) == 1 else tuple(map(torch.cat, zip(*parts, strict=True)))


def _blocks(queries: Tensor, values: Tensor, count: int, empty: float) -> Iterator[Tensor]:
    """Ragged (query, value) pairs (n,) as blocks (count, width), filled up with ``empty``.

    One query may have far more than the others: a block is twice the mean wide, and there may be
    several, so that blocks stay in proportion to n.
    """
    queries, by_query = queries.sort(stable=True)
    values = values[by_query]
    counts = torch.bincount(queries, minlength=count)
    rank = torch.arange(len(values), device=values.device) - (counts.cumsum(0) - counts)[queries]
    width = max(64, 2 * len(values) // count)
    widest = int(counts.max())
    for start in range(0, widest, width):
        block = values.new_full((count, min(width, widest - start)), empty)
        here = (rank >= start) & (rank < start + width)
        block[queries[here], rank[here] - start] = values[here]
        yield block
