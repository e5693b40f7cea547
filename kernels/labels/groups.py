"""The n best of each group: what a longer list leaves when its rest is left out.

A list of the k' best is the beginning of the one order, so its matches that are among the first n
of their groups are the beginning of the answer. Where they are fewer than k, more is looked at: a
longer list once, and then lists without the groups that are full. Each of these fills a group, or
is the last: none of its entries would be left out.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ..contract import order
from .pairs import Full

_LONGER = 4
"""How many times k a list has at first, and how many times that when it was too short."""
_ENTRY_BYTES = 128
"""Of each entry of a list: its key, group and rank, and what they are made of."""

Search = Callable[[Tensor, int, Full | None], Tensor]
"""Keys (q, k) of queries (q,), without what is full."""


def best_per_group(
    search: Search, queries: Tensor, groups: Tensor, n: int, k: int, share: int
) -> Tensor:
    """Keys (Q, k) of ``queries`` (Q,), of each of ``groups`` (M,) at most ``n``; EMPTY behind.

    ``share``: bytes that lists may take, and as many masks.
    """
    rows, (names, groups) = len(groups), torch.unique(groups, return_inverse=True)
    keys = torch.full((len(queries), k), order.EMPTY, device=queries.device)
    few = min(rows, _LONGER * k)
    everyone = torch.arange(len(queries), device=queries.device)
    left = [everyone[:0]]
    for part in everyone.split(max(1, share // (_ENTRY_BYTES * few))):
        found = search(queries[part], few, None)
        keys[part] = _thinned(found, groups, n)[0].topk(k).values
        left.append(part[_has_more(found, keys[part], rows)])
    many = min(rows, _LONGER * few)
    each = max(_ENTRY_BYTES * many, len(names))
    for part in torch.cat(left).split(max(1, share // each)):
        keys[part] = _without_full(search, queries[part], groups, len(names), n, k, many)
    return keys


def _without_full(
    search: Search, queries: Tensor, groups: Tensor, count: int, n: int, k: int, many: int
) -> Tensor:
    """Keys (q, k) from lists of ``many``, of which only the first has full groups in it."""
    keys = torch.full((len(queries), k), order.EMPTY, device=queries.device)
    at, of_full = torch.arange(len(queries), device=queries.device), keys.clone()
    full = Full(groups, torch.zeros(len(queries), count, dtype=torch.bool, device=queries.device))
    is_first = True
    while len(at):
        found = search(queries[at], many, None if is_first else full)
        kept, ranks = _thinned(found, groups, n)
        keys[at] = _merged(of_full, kept)
        owners, places = (ranks == n - 1).nonzero(as_tuple=True)
        full.are_full[owners, groups[_indices(found[owners, places])]] = True
        is_full = full.are_full.gather(1, groups[_indices(found).clamp(min=0)])
        of_full = _merged(of_full, kept.masked_fill(~is_full, order.EMPTY))
        more = _has_more(found, keys[at], len(groups))
        at, of_full, full, is_first = at[more], of_full[more], full.of(more), False
    return keys


def _thinned(found: Tensor, groups: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """``found`` (q, k'), EMPTY where n of its group came before, and the ranks (q, k') within
    groups, -1 where there is no match."""
    is_empty = found == order.EMPTY
    codes = groups[_indices(found).clamp(min=0)].masked_fill_(is_empty, -1)
    codes, by_group = codes.sort(dim=1, stable=True)
    places = torch.arange(found.shape[1], device=found.device).expand_as(codes)
    is_first = torch.ones_like(is_empty)
    is_first[:, 1:] = codes[:, 1:] != codes[:, :-1]
    ranks = places - places.where(is_first, 0).cummax(1).values
    ranks = torch.empty_like(ranks).scatter_(1, by_group, ranks).masked_fill_(is_empty, -1)
    return found.masked_fill(ranks >= n, order.EMPTY), ranks


def _has_more(found: Tensor, keys: Tensor, rows: int) -> Tensor:
    """(q,) bool: whether fewer than k were found, in a list that may go on."""
    if found.shape[1] == rows:
        return torch.zeros(len(keys), dtype=torch.bool, device=keys.device)
    return (keys[:, -1] == order.EMPTY) & (found[:, -1] != order.EMPTY)


def _merged(one: Tensor, other: Tensor) -> Tensor:
    """As many of both as ``one`` has."""
    return torch.cat([one, other], 1).topk(one.shape[1]).values


def _indices(keys: Tensor) -> Tensor:
    return order.unpack(keys)[1]
