"""What is searched: vectors as given or those of a bank, all of them or some that are gathered."""

import torch
from torch import Tensor

from ..contract.chunks import Rows
from ..contract.finite import norms
from ..contract.matches import Found, RangeMatches
from ..contract.request import RangeRequest, Request
from ..dispatch import search_bank, search_vectors, workspace_bytes
from ..storage.prepared import Prepared
from ..torch_backend import rescore
from ..torch_backend.ranges.range_search import within_bank, within_vectors
from .asked import Asked
from .cuts import Cuts, Listed

HELD_SHARES = 3
"""Eighths of the workspace that a search has to leave: a mask, vectors that are gathered, keys."""


class Vectors:
    """Prototypes as given; positions are rows. Requests exclude: what is refused was before."""

    whole = 0.75
    """See ``Cuts``."""

    def __init__(self, chunks: list[Tensor], device: torch.device, are_finite: bool) -> None:
        """``are_finite``: all of these, and the queries, or else the search is refused."""
        self.rows, self.device = Rows([chunk.detach() for chunk in chunks]), device
        self._are_finite = are_finite

    def __len__(self) -> int:
        return len(self.rows)

    def cuts(self, asked: Asked, share: int) -> Cuts:
        """What queries meet, of which vectors of ``share`` bytes may be gathered at a time."""
        return Cuts(asked, self.whole, self.rows.channels, self.gathered_rows(share))

    def best(self, queries: Tensor, request: Request) -> tuple[Tensor, Tensor]:
        """Scores and positions (q, k) of all prototypes."""
        return search_vectors(queries, self.rows.chunks, request)

    def in_range(self, queries: Tensor, request: RangeRequest) -> RangeMatches:
        """All pairs in range, by position."""
        return within_vectors(queries, self.rows, request, False, _left(request))

    def gathered_rows(self, share: int) -> int:
        """How many vectors may be gathered in ``share`` bytes."""
        return max(1, share // (self.rows.channels * self.rows.dtype.itemsize))

    def gathered(self, positions: Tensor) -> Tensor:
        """The vectors (m, C) there, on the device, in a dtype that holds them all."""
        rows, shape = self._rows_at(positions), (len(positions), self.rows.channels)
        return self.rows.take(rows, torch.empty(shape, dtype=self.rows.dtype, device=self.device))

    def best_of_gathered(
        self, queries: Tensor, vectors: Tensor, request: Request
    ) -> tuple[Tensor, Tensor]:
        """Scores, and indices among ``vectors``, (q, k)."""
        return search_vectors(queries, [vectors], request)

    def in_range_of_gathered(
        self, queries: Tensor, vectors: Tensor, request: RangeRequest
    ) -> RangeMatches:
        """All pairs in range, by index among ``vectors``."""
        return within_vectors(queries, Rows([vectors]), request, False, _left(request))

    def scores(
        self, queries: Tensor, listed: Listed, owners: Tensor, places: Tensor, metric: str
    ) -> Tensor:
        """Scores (n,) fp32 of pairs of ``queries`` (q, C), which ascend, and what is listed; NaN
        where a vector is not finite."""
        vectors, bad = self.gathered(listed.rows), None
        if not self._are_finite:
            (queries, of_queries), (vectors, of_rows) = map(_made_finite, (queries, vectors))
            bad = of_queries[owners] | of_rows[places]
        ready = rescore.Ready(queries, metric)
        found = rescore.chosen(queries, ready, vectors, owners, places, metric)
        return found if bad is None else found.masked_fill_(bad, torch.nan)

    def _rows_at(self, positions: Tensor) -> Tensor:
        return positions


class Banked(Vectors):
    """The prototypes of a bank that are there: gathered from its vectors, not its codes."""

    def __init__(self, bank: Prepared) -> None:
        self._bank, self.rows = bank, bank.collection.rows
        self.device = bank.collection.device
        self._are_finite = bank.nonfinite == "raise"

    def __len__(self) -> int:
        return len(self._bank.collection)

    def best(self, queries: Tensor, request: Request) -> tuple[Tensor, Tensor]:
        scores, rows = search_bank(self._bank, queries, request)
        return scores, self._bank.collection.positions(rows)

    def in_range(self, queries: Tensor, request: RangeRequest) -> RangeMatches:
        return within_bank(self._bank, queries, request, False, _left(request))

    def best_of_gathered(
        self, queries: Tensor, vectors: Tensor, request: Request
    ) -> tuple[Tensor, Tensor]:
        found = super().best_of_gathered(queries, vectors, request)
        self._bank.counts.add(len(queries), Found(*found, 0, 0, vectors.nbytes))
        return found

    def in_range_of_gathered(
        self, queries: Tensor, vectors: Tensor, request: RangeRequest
    ) -> RangeMatches:
        found = super().in_range_of_gathered(queries, vectors, request)
        took = Found(found.scores, found.indices, 0, 0, vectors.nbytes)
        self._bank.counts.add(len(queries), took)
        return found

    def scores(
        self, queries: Tensor, listed: Listed, owners: Tensor, places: Tensor, metric: str
    ) -> Tensor:
        found = super().scores(queries, listed, owners, places, metric)
        nothing, read = found.new_empty(0), len(listed.rows) * self.rows.channels
        took = Found(nothing, nothing, 0, len(found), read * self.rows.dtype.itemsize)
        self._bank.counts.add(len(queries), took)
        return found

    def _rows_at(self, positions: Tensor) -> Tensor:
        return self._bank.collection.rows_of(positions)


def _made_finite(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """The vectors (n, C), zero where they are not finite, and which (n,) bool these are."""
    bad = ~norms(vectors).isfinite()
    return vectors.masked_fill(bad[:, None], 0) if bool(bad.any()) else vectors, bad


def _left(request: RangeRequest) -> int:
    """Bytes of the workspace."""
    return workspace_bytes() - request.held
