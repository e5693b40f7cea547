"""One state of a bank: what a search takes once, at its start, and reads until its end."""

import secrets
from collections.abc import Callable, Sequence
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from ..codes.layout import Layout
from ..contract.finite import require_finite
from ..files.tensor_file import TensorFile
from .audit import find_mismatch
from .coder import Coder
from .collection import Collection
from .counts import Counts
from .ids.by_row import as_returned
from .ids.names import NameArray
from .operands import Operands

ChooseLayout = Callable[[torch.device, int, str], Layout | None]
"""How codes lie on a device, of so many channels, where this screen was asked for; None: no codes.
Raises ValueError where they cannot be had."""

_by_handle: WeakValueDictionary[int, "Prepared"] = WeakValueDictionary()


class Prepared:
    """Rows, ids, codes and masks that belong together. Never changes.

    Operators know it by ``handle``; ``counts`` are of all states of one bank.
    """

    def __init__(
        self,
        collection: Collection,
        coder: Coder,
        nonfinite: str,
        file: TensorFile | None = None,
        counts: Counts | None = None,
    ) -> None:
        """``file``: where the first of the vectors are memory-mapped from."""
        self.collection, self.coder = collection, coder
        self.nonfinite, self.file = nonfinite, file
        self.counts = counts or Counts(collection.device)
        self._operands: Operands | None = None  # made when first asked for
        self.handle = secrets.randbits(62)  # random: another process has no such bank
        _by_handle[self.handle] = self

    @property
    def operands(self) -> Operands:
        """What products of the rows take, on the CPU."""
        operands = self._operands
        if operands is None:
            operands = Operands(self.collection.rows, self.coder.metric)
            operands.keep(self.collection.nonfinite)
            self._operands = operands
        return operands

    @property
    def nbytes(self) -> int:
        """Bytes held beside the vectors."""
        kept = 0 if self._operands is None else self._operands.nbytes
        return kept + self.coder.nbytes + self.collection.ids.nbytes

    def with_added(
        self, chunks: Sequence[Tensor], ids: object
    ) -> tuple["Prepared", Tensor | NameArray]:
        """The next state of the same bank, which holds ``chunks``, too, and the ids they have."""
        start = self.collection.ids.count
        fresh = self.collection.ids.checked(ids, sum(map(len, chunks)))
        if self.nonfinite == "raise":
            require_finite("prototypes", chunks)
        added = self.collection.appended(chunks, fresh)
        state = self._next(*self.coder.coded(added, start, True, False))
        return state, as_returned(fresh, added.device)

    def without(self, ids: object) -> "Prepared":
        """The next state of the same bank, in which these ids are not."""
        gone = self.collection.ids.required(ids)
        left = self.collection.removed(gone)
        if 2 * len(left) >= left.ids.count or self.file is not None:
            return self._next(left, self.coder.closed(gone, left))
        return self._next(*self.coder.coded(left.compacted(), 0, True, False))

    def _next(self, collection: Collection, coder: Coder) -> "Prepared":
        return Prepared(collection, coder, self.nonfinite, self.file, self.counts)

    def copied(self) -> "Prepared":
        """The first state of another bank, which counts for itself."""
        counts = Counts(self.collection.device, self.counts.read())
        return Prepared(self.collection, self.coder, self.nonfinite, self.file, counts)

    def check(self) -> None:
        """Read everything, and raise ValueError where it is not what was saved, or coded."""
        if self.file is not None and self.file.checksums:
            self.file.check()
        mismatch = find_mismatch(self.collection, self.coder)
        if mismatch is None:
            return
        first, last, what = mismatch
        message = (
            f"vectors must be those that were prepared; {what} of rows {first} to {last} differ"
        )
        if self.file is not None:
            self.file.refuse(message)
        raise ValueError(message)


def prepared(
    chunks: Sequence[Tensor],
    ids: object,
    device: torch.device,
    metric: str,
    screen: str,
    nonfinite: str,
    progress: bool | None,
    file: TensorFile | None,
    layout_for: ChooseLayout,
) -> Prepared:
    """The first state of a bank of ``chunks`` (m_i, C), with ``ids`` that are checked here."""
    empty = Collection(chunks[0].shape[1], chunks[0].dtype, device)
    rows = empty.appended(chunks, empty.ids.checked(ids, sum(map(len, chunks))))
    coder = Coder(metric, screen, layout_for(device, rows.rows.channels, screen))
    return Prepared(*coder.coded(rows, 0, nonfinite == "exclude", progress), nonfinite, file)


def prepared_of(handle: int) -> Prepared:
    """The state of a bank that has this handle."""
    bank = _by_handle.get(handle)
    if bank is None:
        raise RuntimeError(
            "a graph that searches a PrototypeBank must run where that bank is, as it was when the "
            "graph was made; it is gone, or has changed"
        )
    return bank
