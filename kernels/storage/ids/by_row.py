"""Ids that the caller knows rows by: unique among the rows that are there, found by bisection.

Names are a layer over them: rows that have names have integers, too, which nobody sees.
"""

import copy

import torch
from torch import Tensor

from ...concurrency.room import Room
from .given import as_ids, require_unique, shown
from .names import NameArray, Names, as_name_array

Checked = Tensor | list[str]
"""Ids (n,) that were looked at: int64 on the CPU, or names."""


class Ids:
    """int64 ids by row, on the CPU, and whether each row is there. Never changes."""

    def __init__(self) -> None:
        self._buffer = torch.empty(0, dtype=torch.int64, device="cpu")  # with room for more
        self._room = Room(0)
        self._count = 0
        self._present: Tensor | None = None  # (rows,) bool; None: all are there
        self._length = 0  # rows that are there
        self.following = 0  # above every id so far
        self._ascending = True
        self._sorted: tuple[Tensor, Tensor] | None = None  # if not: ids ascending, and their rows
        self.names: Names | None = None  # of all rows, where the caller knows them by strings
        self._there: Tensor | None = None  # rows that are there, made when first asked for

    @property
    def count(self) -> int:
        """Rows, also those no longer there."""
        return self._count

    def __len__(self) -> int:
        """Rows that are there."""
        return self._length

    @property
    def by_row(self) -> Tensor:
        """(rows,) int64"""
        return self._buffer[: self._count]

    @property
    def present(self) -> Tensor:
        """(rows,) bool"""
        if self._present is None:
            return torch.ones(self._count, dtype=torch.bool, device="cpu")
        return self._present

    @property
    def in_order(self) -> Tensor:
        """(len,) int64 of the rows that are there."""
        return self.by_row if self._present is None else self.by_row[self._present]

    @property
    def kind(self) -> str | None:
        """ "integers" or "strings"; None where there never was a row to say which."""
        if self.names is not None:
            return "strings"
        return "integers" if self.following else None

    @property
    def nbytes(self) -> int:
        return 9 * self._count + (0 if self.names is None else self.names.nbytes)

    def checked(self, ids: object, count: int) -> Checked:
        """``ids`` for ``count`` new rows, or ValueError or TypeError.

        None makes them: 0, 1, 2, ..., never one that was there before.
        """
        if ids is None and self.names is not None:
            raise ValueError("ids must be given where those of the bank are strings; got None")
        if ids is None:
            if self.following + count > torch.iinfo(torch.int64).max:
                raise ValueError(f"ids must be given: none are left above {self.following - 1}")
            return torch.arange(self.following, self.following + count, device="cpu")
        given = as_ids(ids, self.kind)
        if len(given) != count:
            raise ValueError(f"ids must have one id for each of {count} rows; got {len(given)}")
        require_unique(given)
        is_known = self._rows_of(given) >= 0
        if bool(is_known.any()):
            raise ValueError(f"ids must be new to the bank; got {_shown(given, is_known)} again")
        return given

    def appended(self, ids: Checked) -> "Ids":
        """With rows of checked ``ids`` (n,) behind the others."""
        if isinstance(ids, Tensor):
            return self._numbered(ids)
        numbers = torch.arange(self.following, self.following + len(ids), device="cpu")
        names = Names() if self.names is None else self.names
        return self._numbered(numbers).with_names(names.appended(ids))

    def _numbered(self, ids: Tensor) -> "Ids":
        if len(ids) == 0:
            return self
        new, total = copy.copy(self), self._count + len(ids)
        new._ascending &= int(ids[0]) >= self.following and bool((ids.diff() > 0).all())
        new.following = max(self.following, int(ids.max()) + 1)
        if total > len(self._buffer) or not self._room.claim(self._count, total):
            spare = ids.new_empty(total + total // 2 - self._count)
            new._buffer, new._room = torch.cat([self.by_row, spare]), Room(total)
        new._buffer[self._count : total] = ids
        if self._present is not None:
            more = torch.ones_like(ids, dtype=torch.bool)
            new._present = torch.cat([self._present, more])
        new._count, new._length = total, self._length + len(ids)
        new._sorted = new._there = None
        return new

    def removed(self, rows: Tensor) -> "Ids":
        """Without ``rows`` (n,), which are there, each once."""
        if len(rows) == 0:
            return self
        new, present = copy.copy(self), self.present.clone()
        present[rows] = False
        new._present, new._length, new._there = present, self._length - len(rows), None
        return new

    def compacted(self) -> "Ids":
        """Without any trace of the rows that are not there."""
        new = Ids().appended(self.in_order).with_following(self.following)
        return new if self.names is None else new.with_names(self.names.compacted(self.present))

    def with_following(self, following: int) -> "Ids":
        """The next made id is ``following``, which lies above all that are there."""
        new = copy.copy(self)
        new.following = following
        return new

    def with_names(self, names: Names) -> "Ids":
        """``names`` are those of all rows."""
        new = copy.copy(self)
        new.names = names
        return new

    def rows(self, ids: Tensor) -> Tensor:
        """The row of each id (n,), -1 where none is there."""
        if self._count == 0:
            return torch.full_like(ids, -1)
        ordered, rows = self.by_row, None
        if not self._ascending:
            self._sorted = self._sorted or self.by_row.sort(stable=True)
            ordered, rows = self._sorted
        at = (torch.searchsorted(ordered, ids, right=True) - 1).clamp_(min=0)
        row = at if rows is None else rows[at]  # of equal ids the last, the others are gone
        gone = ordered[at] != ids
        if self._present is not None:
            gone |= ~self._present[row]
        return row.masked_fill(gone, -1)

    def _rows_of(self, ids: Checked) -> Tensor:
        """The row (n,) of each id, -1 where none is there."""
        if isinstance(ids, Tensor):
            return self.rows(ids)
        if self.names is None:
            return torch.full((len(ids),), -1, device="cpu")
        rows = self.names.rows(ids)
        if self._present is None:
            return rows
        return rows.masked_fill((rows >= 0) & ~self._present[rows.clamp(min=0)], -1)

    def required(self, ids: object) -> Tensor:
        """The rows of ``ids``, each once, or ValueError that names those not there."""
        given = as_ids(ids, self.kind)
        rows = self._rows_of(given)
        if bool((rows < 0).any()):
            raise ValueError(f"ids must be in the bank; got {_shown(given, rows < 0)}")
        return rows.unique()

    def public(self, device: torch.device) -> Tensor | NameArray:
        """The ids (len,) as the caller knows them: int64 on ``device``, or an array of str."""
        if self.names is None:
            return self.in_order.to(device, copy=True)
        names = self.names.by_row
        return as_name_array(names if self._present is None else names[self._present.numpy()])

    def at(self, positions: Tensor) -> Tensor | NameArray:
        """The ids at ``positions`` (...) as the caller knows them; -1, or None, at -1."""
        at, none = positions.detach().cpu(), positions.detach().cpu() < 0
        rows = at.clamp(min=0)
        if self._present is not None:
            if self._there is None:
                self._there = self._present.nonzero()[:, 0]
            rows = self._there[rows]
        if self.names is None:
            return self.by_row[rows].masked_fill(none, -1).to(positions.device)
        names = self.names.by_row[rows.numpy()]
        names[none.numpy()] = None
        return names.view(NameArray)


def as_returned(ids: Checked, device: torch.device) -> Tensor | NameArray:
    """Checked ids (n,) as the caller gets them."""
    return as_name_array(ids) if isinstance(ids, list) else ids.to(device)


def _shown(ids: Checked, which: Tensor) -> str:
    if isinstance(ids, Tensor):
        return shown(ids[which])
    return shown([ids[i] for i in which.nonzero()[:, 0].tolist()])
