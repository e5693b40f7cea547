"""Ids that the caller knows rows by: unique among the rows that are there, found by bisection."""

import copy
import reprlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..concurrency.room import Room
from ..contract.arguments import ID_LIMIT, require_dense, require_int

INTEGERS = (
    *(torch.int64, torch.int32, torch.int16, torch.int8),
    *(torch.uint64, torch.uint32, torch.uint16, torch.uint8),
)


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

    def checked(self, ids: object, count: int) -> Tensor:
        """``ids`` for ``count`` new rows, as a tensor, or ValueError or TypeError.

        None makes them: 0, 1, 2, ..., never one that was there before.
        """
        if ids is None:
            if self.following + count > torch.iinfo(torch.int64).max:
                raise ValueError(f"ids must be given: none are left above {self.following - 1}")
            return torch.arange(self.following, self.following + count, device="cpu")
        ids = as_ids(ids)
        if len(ids) != count:
            raise ValueError(f"ids must have one id for each of {count} rows; got {len(ids)}")
        require_unique(ids)
        known = ids[self.rows(ids) >= 0]
        if len(known):
            raise ValueError(f"ids must be new to the bank; got {_shown(known)} again")
        return ids

    def appended(self, ids: Tensor) -> "Ids":
        """With rows of checked ``ids`` (n,) behind the others."""
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
        new._count, new._length, new._sorted = total, self._length + len(ids), None
        return new

    def removed(self, rows: Tensor) -> "Ids":
        """Without ``rows`` (n,), which are there, each once."""
        if len(rows) == 0:
            return self
        new, present = copy.copy(self), self.present.clone()
        present[rows] = False
        new._present, new._length = present, self._length - len(rows)
        return new

    def compacted(self) -> "Ids":
        """Without any trace of the rows that are not there."""
        return Ids().appended(self.in_order).with_following(self.following)

    def with_following(self, following: int) -> "Ids":
        """The next made id is ``following``, which lies above all that are there."""
        new = copy.copy(self)
        new.following = following
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

    def required(self, ids: object) -> Tensor:
        """The rows of ``ids``, each once, or ValueError that names those not there."""
        ids = as_ids(ids)
        rows = self.rows(ids)
        if bool((rows < 0).any()):
            raise ValueError(f"ids must be in the bank; got {_shown(ids[rows < 0])}")
        return rows.unique()


def as_ids(ids: object) -> Tensor:
    """A 1-D int64 tensor on the CPU, from a tensor, an array, a sequence or a single integer."""
    array = _as_array(ids)
    if array.ndim > 1:
        raise ValueError(f"ids must be 1-D; got shape {array.shape}")
    array = array.reshape(-1)
    if array.dtype.kind not in "iu":  # one by one, to say which of them is none
        array = np.array([_as_id(value) for value in array], dtype=np.int64)
    if array.dtype.kind == "i" and (array < 0).any():
        raise ValueError(f"ids must not be negative; got {_shown(array[array < 0])}")
    if array.dtype.kind == "u" and (array >= ID_LIMIT).any():
        raise ValueError(f"ids must be below 2^63; got {_shown(array[array >= ID_LIMIT])}")
    return torch.from_numpy(array.astype(np.int64))


def _as_array(ids: object) -> np.ndarray:
    """What is given, of integers or else of the very objects."""
    if isinstance(ids, Tensor):
        require_dense("ids", ids)
        if ids.numel() and ids.dtype not in INTEGERS:
            raise TypeError(f"ids must be integers; got {ids.dtype}")
        return ids.detach().cpu().numpy() if ids.numel() else np.empty(0)
    if hasattr(ids, "__array__"):
        return np.asarray(ids)
    if isinstance(ids, (str, bytes)) or not isinstance(ids, Sequence):
        return np.array(_as_id(ids))
    try:
        array = np.asarray(ids)
    except ValueError:  # rows of several lengths
        array = None
    if array is None or array.dtype.kind not in "iu":  # 2^63 among others would be a float
        array = np.empty(len(ids), dtype=object)
        array[:] = list(ids)
    return array


def _as_id(value: object) -> int:
    try:
        number = require_int("ids", value)
    except TypeError:
        names = isinstance(value, (str, bytes))
        hint = ". Names stay beside the bank, in a list: names[i] is that of id i" * names
        raise TypeError(f"ids must be integers; got {reprlib.repr(value)}{hint}") from None
    if not 0 <= number < ID_LIMIT:
        rule = "not be negative" if number < 0 else "be below 2^63"
        raise ValueError(f"ids must {rule}; got {number}")
    return number


def require_unique(ids: Tensor) -> None:
    ordered = ids.sort().values
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(repeated):
        raise ValueError(f"ids must be unique; got {_shown(repeated.unique())} more than once")


def _shown(ids: Tensor | np.ndarray) -> str:
    return ", ".join(map(str, ids[:5].tolist())) + ", ..." * (len(ids) > 5)
