"""The search by labels: cut by cut, its matches as keys of the one order."""

import torch
from torch import Tensor

from ..contract import order
from ..contract.finite import require_finite
from ..contract.matches import Matches, RangeMatches, offsets_of
from ..contract.request import Request
from ..dispatch import workspace_bytes
from ..operators.range_scores import differentiable
from ..storage.prepared import Prepared
from .asked import Asked
from .cuts import Cut, Listed
from .groups import best_per_group
from .pairs import Full, Pairs
from .sources import HELD_SHARES, Banked, Vectors

_KEY_BYTES = 64
"""Of each key that is found, with what it is made of and merged with."""


def best_of_vectors(
    queries: Tensor, chunks: list[Tensor], request: Request, asked: Asked
) -> Matches:
    """The matches of prototypes (M_i, C), as ``flashmatch.topk`` has them."""
    source = Vectors(chunks, queries.device, not request.exclude)
    if not request.exclude:
        require_finite("queries", [queries.detach()])  # a search of some would number its part
        require_finite("prototypes", source.rows.chunks)  # also those that no query may match
    found = LabelledSearch(queries.detach(), source, request, asked).run()
    return _differentiable_matches(found, found.indices, queries, chunks, request.metric)


def best_of_bank(bank: Prepared, queries: Tensor, request: Request, asked: Asked) -> Matches:
    """The same of a bank, by position, as the mask is."""
    source, device = Banked(bank), queries.device
    vectors = queries.detach().to(source.device)
    if bank.nonfinite == "raise":
        require_finite("queries", [vectors])
    mask = None if request.mask is None else request.mask.to(source.device)
    search = LabelledSearch(vectors, source, request.masked(mask), asked.on(source.device))
    found = Matches(*(part.to(device) for part in search.run()))
    collection, indices = bank.collection, found.indices
    rows = indices.clone()
    rows[indices >= 0] = collection.rows_of(indices[indices >= 0])
    return _differentiable_matches(found, rows, queries, collection.rows.chunks, request.metric)


class LabelledSearch:
    """Of all queries (Q, C); what is searched at a time is for some of them."""

    def __init__(self, queries: Tensor, source: Vectors, request: Request, asked: Asked) -> None:
        self._queries, self._source, self._request, self._asked = queries, source, request, asked
        self._share = workspace_bytes() // 8
        self._pairs = Pairs(asked, request.mask)
        self._cuts = source.cuts(asked, self._share)

    def run(self) -> Matches:
        """Scores and positions (Q, k)."""
        k, groups = self._request.k, self._asked.groups
        everyone = torch.arange(len(self._queries), device=self._queries.device)
        if groups is None:
            return Matches(*order.unpack(self.best(everyone, k)))
        about = groups, self._asked.per_group, k, self._share
        return Matches(*order.unpack(best_per_group(self.best, everyone, *about)))

    def best(self, queries: Tensor, k: int, full: Full | None = None) -> Tensor:
        """Keys (q, k) of ``queries`` (q,), best first, EMPTY behind them; ``full`` is of these."""
        keys = torch.full((len(queries), k), order.EMPTY, device=queries.device)
        for cut in self._cuts.of(queries):
            if isinstance(cut, Listed):
                self._score_listed(keys, queries, cut, full)
                continue
            if cut.rows is None:
                self._search_cut(keys, queries, cut, full)
                continue
            for rows in cut.rows.split(self._source.gathered_rows(self._share)):
                self._search_cut(keys, queries, cut._replace(rows=rows), full)
        return keys

    def _score_listed(
        self, keys: Tensor, queries: Tensor, listed: Listed, full: Full | None
    ) -> None:
        """Merge into ``keys`` all pairs of what is listed."""
        k, asked, (owners, places) = keys.shape[1], queries[listed.queries], listed.pairs()
        rows, own = listed.rows[places], None if full is None else full.of(listed.queries)
        vectors = self._queries[asked]
        scores = self._source.scores(vectors, listed, owners, places, self._request.metric)
        found, may = order.pack(scores, rows), self._pairs.may_match(asked, owners, rows, own)
        found.masked_fill_(scores.isnan(), order.EMPTY)
        if may is not None:
            found.masked_fill_(~may, order.EMPTY)
        table = keys.new_full((len(asked), int(listed.counts.max())), order.EMPTY)
        table[owners, places - listed.firsts[owners]] = found
        keys[listed.queries] = torch.cat([keys[listed.queries], table], 1).topk(k).values

    def _search_cut(self, keys: Tensor, queries: Tensor, cut: Cut, full: Full | None) -> None:
        """Merge into ``keys`` what the queries of a cut find among its rows."""
        k, asked = keys.shape[1], self._request
        vectors = None if cut.rows is None else self._source.gathered(cut.rows)
        count = len(self._source) if cut.rows is None else len(cut.rows)
        fits = self._share // max(self._pairs.width(count, full), _KEY_BYTES * k)
        for part in cut.queries.split(max(1, fits)):
            own = None if full is None else full.of(part)
            mask = self._pairs.mask_of(queries[part], cut.rows, cut.is_same, own)
            about = min(k, count), asked.metric, mask, asked.chunk_rows, True
            request = Request(*about, held=HELD_SHARES * self._share)
            mine = self._queries[queries[part]]
            if vectors is None or cut.rows is None:
                scores, indices = self._source.best(mine, request)
            else:
                scores, indices = self._source.best_of_gathered(mine, vectors, request)
                indices = torch.where(indices < 0, indices, cut.rows[indices.clamp(min=0)])
            found = order.pack(scores, indices).masked_fill_(indices < 0, order.EMPTY)
            keys[part] = torch.cat([keys[part], found], 1).topk(k).values


def _differentiable_matches(
    found: Matches, rows: Tensor, queries: Tensor, chunks: list[Tensor], metric: str
) -> Matches:
    """The same, its scores with gradients where any are wanted; ``rows`` (Q, k): of the chunks."""
    here = rows >= 0
    pairs = RangeMatches(offsets_of(here.sum(1)), rows[here], found.scores[here])
    scores = differentiable(pairs, queries, chunks, metric).scores
    if not scores.requires_grad:
        return found
    return found._replace(scores=found.scores.masked_scatter(here, scores))
