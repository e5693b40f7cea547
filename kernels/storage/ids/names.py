"""Names of rows: strings that stand in memory by row, and are found by a dictionary."""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...concurrency.room import Room

_INT_BYTES = sys.getsizeof(1 << 20)


class NameArray(np.ndarray):
    """An array of str (dtype object) that a tensor of indices picks from, whatever its shape.

    NumPy takes a tensor of one element for a number, and gives a str for it.
    """

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, Tensor):
            key = key.detach().cpu().numpy()
        return super().__getitem__(key)


def as_name_array(names: Sequence[str] | np.ndarray) -> NameArray:
    """A copy (n,)."""
    array = np.empty(len(names), dtype=object)
    array[:] = names
    return array.view(NameArray)


class Names:
    """Strings by row, also of rows no longer there. Never changes.

    States share a buffer, and a dictionary that has the last row of each name. Whoever claims the
    room behind what a state reads writes there, and notes the new rows in the dictionary; each
    state passes over rows that it does not have. A name that was removed and is given again has
    several rows: (the last of them, those before in the same form).
    """

    def __init__(self) -> None:
        self._buffer = np.empty(0, dtype=object)  # with room for more
        self._room = Room(0)
        self._count = 0
        self._text_bytes = 0
        self._rows: dict[str, Any] | None = {}  # None: made when first asked for

    def __len__(self) -> int:
        """Rows."""
        return self._count

    @property
    def by_row(self) -> np.ndarray:
        """(rows,) of str"""
        return self._buffer[: self._count]

    @property
    def nbytes(self) -> int:
        """Bytes of the strings, of the buffer, and of the dictionary once it is made."""
        index = 0
        if self._rows is not None:
            index = sys.getsizeof(self._rows) + _INT_BYTES * self._count
        return self._text_bytes + self._buffer.nbytes + index

    def appended(self, names: Sequence[str]) -> "Names":
        """With ``names`` behind the others. Time is that of what is added, over many calls."""
        new, total = Names(), self._count + len(names)
        new._count, new._rows = total, self._rows
        new._text_bytes = self._text_bytes + sum(map(sys.getsizeof, names))
        new._buffer, new._room = self._buffer, self._room
        is_ours = self._room.claim(self._count, total)
        if not is_ours:
            new._room, new._rows = Room(total), None
        if not is_ours or total > len(self._buffer):
            new._buffer = np.empty(total + total // 2, dtype=object)
            new._buffer[: self._count] = self.by_row
        new._buffer[self._count : total] = names
        if new._rows is not None:
            _note(new._rows, names, self._count)
        return new

    def compacted(self, present: Tensor) -> "Names":
        """Of the rows that are ``present`` (rows,) bool, without any trace of the others."""
        return Names().appended(self.by_row[present.numpy()].tolist())

    def rows(self, names: Sequence[str]) -> Tensor:
        """The last row (n,) int64 of each name, -1 where there never was one."""
        index = self._rows
        if index is None:
            index = {}
            _note(index, self.by_row.tolist(), 0)
            self._rows = index
        found = (self._row(index.get(name)) for name in names)
        return torch.from_numpy(np.fromiter(found, dtype=np.int64, count=len(names)))

    def _row(self, entry: Any) -> int:
        while entry is not None:
            row, entry = entry if isinstance(entry, tuple) else (entry, None)
            if row < self._count:
                return row
        return -1

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self.by_row.tolist(),)


def _note(rows: dict[str, Any], names: Sequence[str], first: int) -> None:
    """The rows of ``names``, from ``first`` on."""
    for row, name in enumerate(names, first):
        before = rows.get(name)
        rows[name] = row if before is None else (row, before)


def _restored(names: list[str]) -> Names:
    return Names().appended(names)
