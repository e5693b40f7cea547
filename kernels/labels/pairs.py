"""Which pairs may match, made for some queries and some prototypes at a time."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .asked import Asked, Labels, Sets
from .spans import begins, spread


class Full(NamedTuple):
    """Groups of which no more is wanted."""

    groups: Tensor
    """(M,) int64: the group of each prototype, from 0 to G - 1."""
    are_full: Tensor
    """(q, G) bool: of each query."""

    def of(self, queries: Tensor) -> "Full":
        """The same of some of the queries."""
        return Full(self.groups, self.are_full[queries])


class Pairs:
    """The conditions of labels, and the caller's mask, (M,) or (Q, M), as one mask of a block."""

    def __init__(self, asked: Asked, mask: Tensor | None) -> None:
        self._same, self._different, self._mask = asked.same, asked.different, mask
        self._allowed = None if asked.allowed is None else _Tables(asked.allowed)

    def width(self, rows: int, full: Full | None = None) -> int:
        """The most bools that a mask of ``rows`` prototypes takes for each query, with what it is
        made of."""
        groups = 0 if full is None else full.are_full.shape[1]
        if self._allowed is not None:
            return 2 * max(rows, self._allowed.labels, 1) + groups
        given = self._same, self._different, self._mask, full
        is_joined = sum(part is not None for part in given) > 1
        return (1 + is_joined) * max(rows, 1) + groups

    def mask_of(
        self, queries: Tensor, rows: Tensor | None, is_same: bool, full: Full | None
    ) -> Tensor | None:
        """Of queries (q,) and prototypes (m,), all where None: (m,) where it is that of each of
        these queries, (q, m) otherwise; None where all match.

        ``is_same``: all these pairs have one label in ``same``. ``full`` is of these queries.
        """
        mask = self._mask_given(queries, rows)
        if self._same is not None and not is_same:
            mask = _both(mask, _compared(self._same, queries, rows, torch.eq))
        if self._different is not None:
            mask = _both(mask, _compared(self._different, queries, rows, torch.ne))
        if self._allowed is not None:
            mask = _both(mask, self._allowed.mask_of(queries, rows))
        if full is not None:
            mask = _both(mask, ~full.are_full.index_select(1, _of_rows(full.groups, rows)))
        return mask

    def may_match(
        self, queries: Tensor, owners: Tensor, rows: Tensor, full: Full | None
    ) -> Tensor | None:
        """(n,) bool of pairs that have one label in ``same``: of queries[owners], and prototypes
        ``rows`` (n,); ``full`` is of the queries. None where all may match."""
        of_pairs, may = queries[owners], self._mask
        if may is not None:
            may = may[rows] if may.ndim == 1 else may[of_pairs, rows]
        if self._different is not None:
            mine, theirs = self._different
            may = _both(may, mine[of_pairs] != theirs[rows])
        if self._allowed is not None:
            may = _both(may, self._allowed.allow(of_pairs, rows))
        if full is not None:
            may = _both(may, ~full.are_full[owners, full.groups[rows]])
        return may

    def _mask_given(self, queries: Tensor, rows: Tensor | None) -> Tensor | None:
        mask = self._mask
        if mask is None:
            return None
        if mask.ndim == 1:
            return _of_rows(mask, rows)
        if rows is None:
            return mask.index_select(0, queries)
        return mask[queries[:, None], rows]


class _Tables:
    """Sets of labels, of which a block has a table: whether each query allows each label."""

    def __init__(self, sets: Sets) -> None:
        known, self._columns = torch.unique(sets.of_prototypes, return_inverse=True)
        self.labels, device = len(known), known.device
        owners = torch.arange(len(sets.counts), device=device).repeat_interleave(sets.counts)
        found = torch.isin(sets.labels, known)
        columns = torch.searchsorted(known, sets.labels[found])
        once = self._once = torch.unique(owners[found] * max(self.labels, 1) + columns)
        self._counts = torch.bincount(once // max(self.labels, 1), minlength=len(sets.counts))
        self._starts = begins(self._counts)
        self._allowed = once % max(self.labels, 1)

    def allow(self, queries: Tensor, rows: Tensor) -> Tensor:
        """(n,) bool of pairs."""
        wanted = queries * max(self.labels, 1) + self._columns[rows]
        return torch.isin(wanted, self._once)

    def mask_of(self, queries: Tensor, rows: Tensor | None) -> Tensor:
        counts = self._counts[queries]
        at, owners = spread(self._starts[queries], counts)
        table = torch.zeros(len(queries), self.labels, dtype=torch.bool, device=queries.device)
        table[owners, self._allowed[at]] = True
        return table.index_select(1, _of_rows(self._columns, rows))


def _compared(
    labels: Labels,
    queries: Tensor,
    rows: Tensor | None,
    compare: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """(m,) where these queries have one label, (q, m) otherwise."""
    mine, theirs = labels[0][queries], _of_rows(labels[1], rows)
    if len(mine) and bool((mine == mine[0]).all()):
        return compare(theirs, mine[0])
    return compare(mine[:, None], theirs)


def _of_rows(values: Tensor, rows: Tensor | None) -> Tensor:
    return values if rows is None else values[rows]


def _both(one: Tensor | None, other: Tensor) -> Tensor:
    """Where both hold, in the memory of ``other`` if it may be: ``one`` may be the caller's."""
    if one is None:
        return other
    if other.ndim >= one.ndim:
        return other.logical_and_(one)
    return one & other
