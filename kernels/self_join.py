"""A bank's prototypes as queries of themselves: the nearest others of each, and all pairs."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from .arrays.taken import AnyArray
from .bank_contents import BankContents
from .contract import arguments
from .contract.matches import Matches, RangeMatches, joined, no_range
from .contract.request import RangeRequest, Request
from .dispatch import search_bank, workspace_bytes
from .labels.asked import Asked, as_asked_of_itself
from .labels.ranges import labelled_within_bank
from .labels.searches import best_of_bank
from .storage.prepared import Prepared
from .torch_backend.ranges.pieces import Piece, best_of, in_one, result_of
from .torch_backend.ranges.range_search import within_bank

_QUERY_ROWS = 1 << 12
"""Prototypes that are queries at a time; fewer where they are wide."""


class SelfJoin(BankContents):
    """A bank that meets itself."""

    def neighbors(
        self, k: int, *, same: AnyArray | None = None, different: AnyArray | None = None
    ) -> Matches:
        """The k most similar other prototypes of each, exactly: ``topk`` of the bank by itself.

        A prototype is left out of its own matches by position: duplicates of it stay.

        Args:
            k: 0 <= k < len(bank).
            same, different: (M,) integers, a label of each prototype by position: only others of
                the same label match; only those of another.

        Returns:
            ``Matches(scores, indices)``, (M, k) by position, on ``device``. Where fewer than k
            others may match, and for rows that are not finite, the rest is -inf and -1.

        Raises:
            TypeError, ValueError: naming argument, expectation and value.

        Time is O(M^2 C); memory beyond the result at most ``kernels.WORKSPACE_BYTES`` and 4,096
        vectors or so.
        """
        state = self._state
        k = arguments.require_int("k", k, least=0)
        others = max(len(state.collection) - 1, 0)
        if k > others:
            raise ValueError(f"k must be between 0 and {others}, the other prototypes; got {k}")
        asked = as_asked_of_itself(len(state.collection), self.device, same, different)
        return _nearest_others(state, k, asked)

    def pairs(
        self,
        threshold: float,
        *,
        once: bool = True,
        limit: int | None = None,
        sort: bool = True,
        same: AnyArray | None = None,
        different: AnyArray | None = None,
    ) -> RangeMatches:
        """All pairs of prototypes whose score is at least ``threshold``, exactly.

        Args:
            threshold: a number, not NaN, as of ``flashmatch.within``.
            once: each pair once, as (i, j) with i < j, which takes half the time; False gives both
                (i, j) and (j, i). A prototype is no pair with itself; duplicates of it are.
            limit: the most pairs of each i, of which the best are kept; None = all.
            sort: the pairs of each i by score descending, then j ascending; False: by j.
            same, different: as of ``neighbors``: pairs of one label; of two.

        Returns:
            ``RangeMatches(offsets, indices, scores)``: a CSR matrix (M, M) by position, on
            ``device``. What belongs together is found by SciPy::

                offsets, indices, scores = bank.pairs(0.9)
                graph = csr_array((scores, indices, offsets), shape=(len(bank), len(bank)))
                count, labels = connected_components(graph, directed=False)

        Raises:
            TypeError, ValueError: naming argument, expectation and value.

        Time is O(M^2 C), with ``same`` only of pairs of one label; memory beyond
        ``kernels.WORKSPACE_BYTES`` is some five times the result.
        """
        state, device = self._state, self.device
        once = arguments.require_bool("once", once)
        sort = arguments.require_bool("sort", sort)
        limit = arguments.require_limit(limit)
        least = arguments.require_threshold(threshold, 1, device)
        asked = as_asked_of_itself(len(state.collection), device, same, different)
        if asked is not None:
            return _labelled_pairs(state, least, once, limit, sort, asked)
        return _all_pairs(state, least, once, limit, sort)


def _nearest_others(bank: Prepared, k: int, asked: Asked | None) -> Matches:
    """One more is searched for than is wanted, and what is left out is so by its position, not by
    its score: duplicates stay. Where it is not among them, the last is left out.
    """
    count, device = len(bank.collection), bank.collection.device
    scores = torch.empty(count, k, dtype=torch.float32, device=device)
    positions = torch.empty(count, k, dtype=torch.int64, device=device)
    for part, _, queries in _queries(bank) if k else ():
        found = _best(bank, queries, k + 1, None if asked is None else asked.of(part))
        own = torch.arange(part.start, part.stop, device=device)
        is_own = found.indices == own[:, None]
        is_own[:, -1] |= ~is_own.any(1)
        others = (~is_own).nonzero()[:, 1].view(-1, k)
        scores[part] = found.scores.gather(1, others)
        positions[part] = found.indices.gather(1, others)
    return Matches(scores, positions)


def _best(bank: Prepared, queries: Tensor, k: int, asked: Asked | None) -> Matches:
    """By position."""
    request = Request(k, bank.coder.metric, exclude=True)
    if asked is not None:
        return best_of_bank(bank, queries, request, asked)
    scores, rows = search_bank(bank, queries, request)
    return Matches(scores, bank.collection.positions(rows))


def _all_pairs(
    bank: Prepared, least: Tensor, once: bool, limit: int | None, sort: bool
) -> RangeMatches:
    """All pairs of positions that reach ``least`` (1,) fp32, as a CSR matrix of M rows.

    ``once``: a row meets only those behind it. The others are these, mirrored; a limit needs all of
    a row's to know the best, so that it is searched for both.
    """
    if once or limit is not None:
        return _searched(bank, least, once, limit, sort)
    offsets, indices, scores = found = _searched(bank, least, True, None, False)
    by_second = indices.argsort(stable=True)
    counts = torch.bincount(indices, minlength=len(offsets) - 1)
    before = Piece(counts, found.queries[by_second], scores[by_second])
    return result_of([in_one([before, Piece(offsets.diff(), indices, scores)])], sort)


def _searched(
    bank: Prepared, least: Tensor, once: bool, limit: int | None, sort: bool
) -> RangeMatches:
    parts = [no_range(least[:0])]
    for _, own, queries in _queries(bank):
        request = replace(_range(bank, least, len(own), limit), own=own, once=once)
        parts.append(within_bank(bank, queries, request, sort, workspace_bytes()))
    return joined(parts)


def _labelled_pairs(
    bank: Prepared, least: Tensor, once: bool, limit: int | None, sort: bool, asked: Asked
) -> RangeMatches:
    """A row meets all of its labels, itself, too, and those before it, which are dropped."""
    parts = [no_range(least[:0])]
    for part, own, queries in _queries(bank):
        request = _range(bank, least, len(own), None)
        found = labelled_within_bank(bank, queries, request, asked.of(part), False)
        mine = found.queries
        others = found.indices > mine + part.start if once else found.indices != mine + part.start
        counts = torch.bincount(mine[others], minlength=len(own))
        piece = Piece(counts, found.indices[others], found.scores[others])
        piece = piece if limit is None else best_of(piece, limit)
        parts.append(result_of([piece], sort))
    return joined(parts)


def _range(bank: Prepared, least: Tensor, count: int, limit: int | None) -> RangeRequest:
    return RangeRequest(1, bank.coder.metric, None, None, True, least.expand(count), limit)


def _queries(bank: Prepared) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Slices of positions, the rows (n,) there, and their vectors (n, C) on the bank's device."""
    collection = bank.collection
    rows, device = collection.rows, collection.device
    present = collection.ids.present.nonzero()[:, 0]
    step = max(1, min(_QUERY_ROWS, workspace_bytes() // (64 * rows.channels)))
    for start in range(0, len(present), step):
        own = present[start : start + step]
        vectors = torch.empty(len(own), rows.channels, dtype=rows.dtype, device=device)
        yield slice(start, start + len(own)), own, rows.take(own.to(device), vectors)
