"""Ids that the caller knows rows by: unique among the rows that are there, found by bisection."""

import torch
from torch import Tensor


class Ids:
    """int64 ids by row, on the CPU, and whether each row is there. Rows are only ever appended."""

    def __init__(self) -> None:
        self._ids = torch.empty(
            0, dtype=torch.int64, device="cpu"
        )  # with room for more, as _present
        self._present = torch.empty(0, dtype=torch.bool, device="cpu")
        self._count = 0
        self.following = 0  # above every id so far
        self._ascending = True
        self._sorted: tuple[Tensor, Tensor] | None = None  # if not: ids ascending, and their rows

    def __len__(self) -> int:
        """Rows, also those no longer there."""
        return self._count

    @property
    def by_row(self) -> Tensor:
        return self._ids[: self._count]

    @property
    def present(self) -> Tensor:
        """(rows,) bool, to be written to."""
        return self._present[: self._count]

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
        ordered = ids.sort().values
        repeated = ordered[1:][ordered[1:] == ordered[:-1]]
        if len(repeated):
            raise ValueError(f"ids must be unique; got {_shown(repeated.unique())} more than once")
        known = ids[self.rows(ids) >= 0]
        if len(known):
            raise ValueError(f"ids must be new to the bank; got {_shown(known)} again")
        return ids

    def append(self, ids: Tensor) -> None:
        """Rows with checked ``ids`` (n,)."""
        if len(ids) == 0:
            return
        self._ascending &= int(ids[0]) >= self.following and bool((ids.diff() > 0).all())
        self._ids = _extended(self._ids, self._count, ids)
        self._present = _extended(
            self._present, self._count, torch.ones_like(ids, dtype=torch.bool)
        )
        self._count += len(ids)
        self.following = max(self.following, int(ids.max()) + 1)
        self._sorted = None

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
        return row.masked_fill((ordered[at] != ids) | ~self.present[row], -1)

    def required(self, ids: object) -> Tensor:
        """The rows of ``ids``, each once, or ValueError that names those not there."""
        ids = as_ids(ids)
        rows = self.rows(ids)
        if bool((rows < 0).any()):
            raise ValueError(f"ids must be in the bank; got {_shown(ids[rows < 0])}")
        return rows.unique()

    def compact(self) -> None:
        """Forget the rows that are not there."""
        ids, following = self.by_row[self.present], self.following
        self.__init__()
        self.append(ids)
        self.following = following


def _extended(buffer: Tensor, count: int, values: Tensor) -> Tensor:
    """``buffer`` with ``values`` behind its first ``count`` entries; grows by half."""
    total = count + len(values)
    if total > len(buffer):
        buffer = torch.cat([buffer[:count], values.new_empty(total + total // 2 - count)])
    buffer[count:total] = values
    return buffer


def as_ids(ids: object) -> Tensor:
    """A 1-D int64 tensor on the CPU, from a tensor, an array, a sequence or a single integer."""
    tensor = torch.as_tensor(ids, device="cpu").detach()
    if tensor.numel() == 0:
        tensor = tensor.long()
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise TypeError(f"ids must be integers; got {tensor.dtype}")
    tensor = tensor.long().reshape(-1) if tensor.ndim < 2 else tensor
    if tensor.ndim != 1:
        raise ValueError(f"ids must be 1-D; got shape {tuple(tensor.shape)}")
    if bool((tensor < 0).any()):
        raise ValueError(f"ids must not be negative; got {_shown(tensor[tensor < 0])}")
    return tensor.clone()


def _shown(ids: Tensor) -> str:
    return ", ".join(map(str, ids[:5].tolist())) + ", ..." * (len(ids) > 5)
