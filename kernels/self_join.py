"""A bank's prototypes as queries of themselves: the nearest others of each, and all pairs."""

from collections.abc import Iterator

import torch
from torch import Tensor

from .contract.matches import Matches, RangeMatches, joined, no_range
from .contract.request import RangeRequest, Request
from .dispatch import search_bank, workspace_bytes
from .storage.prepared import Prepared
from .torch_backend.ranges.pieces import Piece, in_one, result_of
from .torch_backend.ranges.range_search import within_bank

_QUERY_ROWS = 1 << 12
"""Prototypes that are queries at a time; fewer where they are wide."""


def nearest_others(bank: Prepared, k: int) -> Matches:
    """Scores and positions (M, k) of the k best others of each of M prototypes, on the bank's
    device.

    One more is searched for than is wanted, and a row is left out by its number, not by its score:
    its duplicates stay. Where it is not among them, the last is left out.
    """
    collection = bank.collection
    scores = torch.empty(len(collection), k, dtype=torch.float32, device=collection.device)
    positions = torch.empty(len(collection), k, dtype=torch.int64, device=collection.device)
    for part, own, queries in _queries(bank) if k else ():
        found = search_bank(bank, queries, Request(k + 1, bank.coder.metric, exclude=True))
        is_own = found[1] == own.to(collection.device)[:, None]
        is_own[:, -1] |= ~is_own.any(1)
        others = (~is_own).nonzero()[:, 1].view(-1, k)
        scores[part] = found[0].gather(1, others)
        positions[part] = collection.positions(found[1].gather(1, others))
    return Matches(scores, positions)


def all_pairs(
    bank: Prepared, least: Tensor, once: bool, limit: int | None, sort: bool
) -> RangeMatches:
    """All pairs of positions that reach ``least`` (1,) fp32, as a CSR matrix of M rows.

    ``once``: (i, j) with i < j alone, for which a row meets only those behind it. The others are
    these, mirrored; a limit needs all of a row's to know the best, so that it is searched for both.
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
    parts, metric = [no_range(least[:0])], bank.coder.metric
    for _, own, queries in _queries(bank):
        about = 1, metric, None, None, True, least.expand(len(own)), limit
        request = RangeRequest(*about, own=own, once=once)
        parts.append(within_bank(bank, queries, request, sort, workspace_bytes()))
    return joined(parts)


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
