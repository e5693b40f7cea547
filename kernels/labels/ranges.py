"""Searches by labels for all that reaches a score."""

from dataclasses import replace

import torch
from torch import Tensor

from ..contract.finite import require_finite
from ..contract.matches import RangeMatches, joined, offsets_of
from ..contract.request import RangeRequest
from ..dispatch import workspace_bytes
from ..storage.prepared import Prepared
from ..torch_backend.ranges.pieces import Piece, best_of, in_one, result_of
from .asked import Asked
from .cuts import Cut, Listed
from .pairs import Pairs
from .sources import HELD_SHARES, Banked, Vectors


def labelled_within(
    queries: Tensor, chunks: list[Tensor], request: RangeRequest, asked: Asked, is_sorted: bool
) -> RangeMatches:
    """As ``within_vectors``, of prototypes (M_i, C), without gradients."""
    source = Vectors(chunks, queries.device, not request.exclude)
    if not request.exclude:
        require_finite("queries", [queries])
        require_finite("prototypes", source.rows.chunks)
    return _LabelledRange(queries, source, request, asked).run(is_sorted)


def labelled_within_bank(
    bank: Prepared, queries: Tensor, request: RangeRequest, asked: Asked, is_sorted: bool
) -> RangeMatches:
    """As ``within_bank``: by position, as the mask is, on the queries' device."""
    source, device = Banked(bank), queries.device
    queries = queries.to(source.device)
    if bank.nonfinite == "raise":
        require_finite("queries", [queries])
    moved = request.on(source.device), asked.on(source.device)
    return _LabelledRange(queries, source, *moved).run(is_sorted).to(device)


class _LabelledRange:
    def __init__(
        self, queries: Tensor, source: Vectors, request: RangeRequest, asked: Asked
    ) -> None:
        self._queries, self._source, self._request = queries, source, request
        self._share = workspace_bytes() // 8
        self._pairs = Pairs(asked, request.mask)
        self._cuts = source.cuts(asked, self._share)

    def run(self, is_sorted: bool) -> RangeMatches:
        device = self._queries.device
        everyone = torch.arange(len(self._queries), device=device)
        found = [
            (everyone[:0], Piece(everyone[:0], everyone[:0], torch.empty(0, device=device))),
            *((cut.queries, self._piece_of(cut)) for cut in self._cuts.of(everyone)),
        ]
        owners, pieces = zip(*found, strict=True)
        counts = torch.zeros_like(everyone)
        counts[torch.cat(owners)] = torch.cat([piece.counts for piece in pieces])
        indices, scores = (torch.cat([piece[i] for piece in pieces]) for i in (1, 2))
        if self._request.counts_only:
            return RangeMatches(offsets_of(counts), indices, scores)
        of_each = [torch.repeat_interleave(own, piece.counts) for own, piece in found]
        by_query = torch.cat(of_each).argsort(stable=True)
        return result_of([Piece(counts, indices[by_query], scores[by_query])], is_sorted)

    def _piece_of(self, cut: Cut | Listed) -> Piece:
        """What the queries of a cut find among its rows, by index."""
        if isinstance(cut, Listed):
            return self._listed_piece(cut)
        if cut.rows is None:
            return self._searched_piece(cut)
        step = self._source.gathered_rows(self._share)
        pieces = [self._searched_piece(cut._replace(rows=rows)) for rows in cut.rows.split(step)]
        if self._request.counts_only:
            counts = torch.stack([piece.counts for piece in pieces]).sum(0)
            return pieces[0]._replace(counts=counts)
        piece = in_one(pieces)
        return piece if self._request.limit is None else best_of(piece, self._request.limit)

    def _listed_piece(self, listed: Listed) -> Piece:
        """All pairs of what is listed that reach the threshold."""
        asked, (owners, places) = self._request, listed.pairs()
        assert asked.least is not None
        queries, rows = listed.queries, listed.rows[places]
        scores = self._source.scores(self._queries[queries], listed, owners, places, asked.metric)
        reached = scores >= asked.least[queries[owners]]
        may = self._pairs.may_match(queries, owners, rows, None)
        reached = reached if may is None else reached & may
        counts = torch.bincount(owners[reached], minlength=len(queries))
        if asked.counts_only:
            return Piece(counts, rows[:0], scores[:0])
        piece = Piece(counts, rows[reached], scores[reached])
        return piece if asked.limit is None else best_of(piece, asked.limit)

    def _searched_piece(self, cut: Cut) -> Piece:
        rows = cut.rows
        vectors = None if rows is None else self._source.gathered(rows)
        width = self._pairs.width(len(self._source) if rows is None else len(rows))
        found = []
        for part in cut.queries.split(max(1, self._share // width)):
            mask = self._pairs.mask_of(part, rows, cut.is_same, None)
            request = replace(
                self._request.masked(None).of(part),
                mask=mask,
                exclude=True,
                held=HELD_SHARES * self._share,
            )
            mine = self._queries[part]
            if vectors is None or rows is None:
                found.append(self._source.in_range(mine, request))
            else:
                here = self._source.in_range_of_gathered(mine, vectors, request)
                found.append(here._replace(indices=rows[here.indices]))
        offsets, indices, scores = joined(found)
        return Piece(offsets.diff(), indices, scores)
