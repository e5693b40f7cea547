"""What reaches a given score, of one block of queries: candidates whose threshold is known."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ...contract.chunks import Rows
from ...contract.request import RangeRequest
from ...proofs import fp32
from .. import rescore
from ..candidates import Candidates
from ..float_screen import FloatScreen
from ..query_block import QueryBlock
from . import pieces
from .pieces import Piece

_POOL = 1 << 16
"""Candidates that wait to be rescored, at most; and matches beyond two limits of each query."""


class RangeBlock(QueryBlock):
    """A block of queries that look for all that reaches a score."""

    candidates: "InRange"
    request: RangeRequest

    def no_candidates(self) -> "InRange":
        return InRange(self.queries, self.excluded, self.request)


class InRange(Candidates):
    """Its threshold rises only where a query has found its limit."""

    def __init__(self, queries: Tensor, excluded: Tensor, request: RangeRequest) -> None:
        """Finite ``queries`` (Q, C) as given, and those among them that find nothing (Q,) bool."""
        super().__init__(queries, 1, request.metric)
        assert request.least is not None
        self.wanted = request.least.masked_fill(excluded, torch.nan)  # (Q,) fp32
        self.excluded, self.request = excluded, request
        self.full = True
        self.sure = torch.full_like(self.threshold, torch.inf)
        """(Q,) fp32, in screen units: what is no less is in range; for counts alone."""
        self.waiting: list[tuple[Tensor, Tensor]] = []
        self.found: list[Piece] = []
        self.held = 0  # matches in it
        self.ready: rescore.Ready | None = None  # made when first asked for

    def measured_by(self, screen: FloatScreen) -> None:
        super().measured_by(screen)
        self._set_threshold()

    def add(self, queries: Tensor, indices: Tensor, lower: Tensor, upper: Tensor) -> None:
        stay = upper >= self.threshold[queries]
        if self.request.counts_only:
            certain = lower >= self.sure[queries]
            self.count(torch.bincount(queries[certain], minlength=len(self.queries)))
            stay &= ~certain
        self.wait(queries[stay], indices[stay])

    def sure_beyond(self, slack: Tensor) -> Tensor:
        """(Q,) fp32: screened values from which on a score is in range, of such a ``slack``."""
        return fp32.raised_to_fp32(self.sure.double() + slack)

    def count(self, counts: Tensor) -> None:
        """So many more of each query (Q,), of which nothing else is kept."""
        self._keep(self._nothing()._replace(counts=counts))

    def wait(self, queries: Tensor, indices: Tensor) -> None:
        """Pairs (n,) that are to be rescored."""
        others = self.request.is_other(queries, indices)
        if others is not None:
            queries, indices = queries[others], indices[others]
        self.waiting.append((queries, indices))
        self.size += len(queries)

    def add_table(self, scores: Tensor, first: int, mask: Tensor | None) -> int:
        """How many of the scores (Q, P) of the rows from ``first`` on are in range.

        ``mask`` (P,) or (Q, P): True = may match.
        """
        reached = scores >= self.wanted[:, None]
        if mask is not None:
            reached &= mask
        if self.request.own is not None and first <= int(self.request.own[-1]):
            reached &= self.request.are_others(first, scores.shape[1])
        piece = pieces.of_table(reached, scores, first)
        self._keep(piece)
        return len(piece.indices)

    def add_from(self, rows: Tensor, first: int, queries: Tensor, columns: Tensor) -> None:
        """Pairs (n,) of queries, which ascend, with ``rows`` (P, C), of which row 0 is ``first``;
        columns ascend within a query."""
        if self.ready is None:
            self.ready = rescore.Ready(self.queries, self.metric)
        others = self.request.is_other(queries, columns + first)
        if others is not None:
            queries, columns = queries[others], columns[others]
        about = self.queries, self.ready, rows
        scores = rescore.chosen(*about, queries, columns, self.metric)
        self.rescored += len(queries)
        reached = scores >= self.wanted[queries]
        if not bool(reached.all()):
            queries, columns, scores = queries[reached], columns[reached], scores[reached]
        counts = torch.bincount(queries, minlength=len(self.queries))
        self._keep(Piece(counts, columns + first, scores))

    def tighten(self, prototypes: Rows) -> None:
        """Rescore what waits."""
        if not self.size:
            return
        queries, indices = map(torch.cat, zip(*self.waiting, strict=True))
        scores = rescore.pairs(self.queries, prototypes, queries, indices, self.metric)
        self.rescored += len(queries)
        reached = scores >= self.wanted[queries]
        found = queries[reached], indices[reached], scores[reached]
        self._keep(pieces.of_pairs(*found, len(self.queries)))
        self.waiting, self.size = [], 0

    def crowded(self) -> bool:
        return self.size > _POOL

    def raise_threshold(self) -> None:
        pass

    def pieces(self, prototypes: Rows) -> Sequence[Piece]:
        """Of each query at least what belongs to the result, in few pieces."""
        self.tighten(prototypes)
        return self.found or [self._nothing()]

    def _nothing(self) -> Piece:
        indices = self.keys.new_empty(0)
        return Piece(self.keys.new_zeros(len(self.queries)), indices, self.lower.new_empty(0))

    def _keep(self, piece: Piece) -> None:
        if self.request.counts_only:
            counts = piece.counts + self.found[0].counts if self.found else piece.counts
            self.found = [self._nothing()._replace(counts=counts)]
            return
        self.found.append(piece)
        self.held += len(piece.indices)
        limit = self.request.limit
        if limit is not None and self.held > 2 * limit * len(self.queries) + _POOL:
            best = pieces.best_of(pieces.in_one(self.found), limit)
            self.found, self.held = [best], len(best.indices)
            self._raise_to(pieces.lowest_of(best), best.counts == limit)

    def _raise_to(self, lowest: Tensor, has_all: Tensor) -> None:
        """What comes later loses against equal scores."""
        above = lowest.nextafter(lowest.new_tensor(torch.inf))
        self.wanted = torch.where(has_all, torch.maximum(self.wanted, above), self.wanted)
        self._set_threshold()

    def _set_threshold(self) -> None:
        about = self.lengths, self.queries.shape[1], self.metric, self.units
        known = self.wanted.masked_fill(self.excluded, torch.inf)
        self.threshold = fp32.threshold(known, *about).masked_fill_(self.excluded, torch.inf)
        if self.request.counts_only:
            self.sure = fp32.sure_threshold(known, *about)
