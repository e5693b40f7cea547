"""What a bank holds: made, added to and removed from, saved, loaded and checked."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .arrays.returned import in_kind_of
from .arrays.taken import AnyArray, as_prototypes
from .concurrency.fit_thread import in_fit_thread
from .concurrency.succession import Succession
from .contract import arguments
from .contract.finite import NONFINITE
from .contract.metrics import METRICS
from .contract.naming import named
from .dispatch import layout_for
from .files.tensor_file import TensorFile, open_matrix
from .notebook.tables import facts, size
from .storage import bank_file
from .storage.coder import SCREENS
from .storage.counts import BankStats
from .storage.prepared import Prepared, prepared

if TYPE_CHECKING:
    from typing_extensions import Self

    from .storage.ids.names import NameArray

# A tensor made in inference mode can never be changed outside it.
_ANY_MODE = torch.inference_mode(False)


class BankContents:
    """A bank (bank.py) without its searches. Never changes but by ``_states``."""

    @_ANY_MODE
    def __init__(
        self,
        prototypes: AnyArray | str | os.PathLike,
        *,
        metric: str = "cosine",
        ids: object = None,
        device: torch.device | str | None = None,
        screen: str = "auto",
        nonfinite: str = "raise",
        progress: bool | None = None,
    ) -> None:
        arguments.require_choice("metric", metric, METRICS)
        arguments.require_choice("screen", screen, SCREENS)
        arguments.require_choice("nonfinite", nonfinite, NONFINITE)
        file = None
        if isinstance(prototypes, (str, os.PathLike)):
            path = os.fspath(prototypes)
            with named(path="prototypes"):
                prototypes = open_matrix(path)
            file = TensorFile(str(path), {"prototypes": prototypes}, {})
        given = arguments.require_prototypes(as_prototypes(prototypes))
        chunks = [chunk.detach() for chunk in given]
        where = chunks[0].device if device is None else arguments.require_device("device", device)
        options = metric, screen, nonfinite, progress, file, layout_for
        self._begin(in_fit_thread(chunks, prepared, chunks, ids, where, *options))

    @_ANY_MODE
    def add(self, prototypes: AnyArray | str | os.PathLike, ids: object = None) -> AnyArray:
        """Append prototypes (m, C), or chunks of them, and return their ids (m,).

        ``prototypes`` are of any kind that the constructor takes; integer ids are a tensor for
        tensors, and in their kind of array otherwise, as of ``flashmatch.topk``.

        They take the positions after the last. ids None = above every id there ever was; where ids
        are strings, they have to be given. Costs what is added, and at most one page of 1,024 rows
        besides. A refused call changes nothing.

        Raises:
            TypeError, ValueError: wrong dtype or width, ids of another kind than the bank's, that
                repeat or are in the bank already, and, unless ``nonfinite="exclude"``, vectors that
                are not finite.
        """
        given = arguments.require_prototypes(as_prototypes(prototypes))
        chunks = [chunk.detach() for chunk in given]
        for chunk in chunks:
            arguments.require_bank_channels("prototypes", chunk, self.dim)
        added = self._states.change(
            lambda state: in_fit_thread(
                [*state.collection.rows.chunks, *chunks], state.with_added, chunks, ids
            )
        )
        return in_kind_of(prototypes, added)

    @_ANY_MODE
    def remove(self, ids: object) -> None:
        """Remove the prototypes with these ids: one, or a tensor, array or sequence of them.

        Later positions move up; ids stay. Costs what is removed; once most rows are gone, what is
        left of vectors that are not memory-mapped is copied and prepared again.

        Raises:
            TypeError, ValueError: other ids than the bank's; nothing is removed then.
        """
        self._states.change(
            lambda state: (in_fit_thread(state.collection.rows.chunks, state.without, ids), None)
        )

    def vectors(self, positions: Tensor | None = None) -> Tensor:
        """A copy (n, C) of the vectors at ``positions`` (n,) int64, or of all, on the CPU.

        Raises:
            TypeError, ValueError: not a 1-D int64 tensor of positions from 0 to len(self) - 1.
        """
        rows = self._state.collection
        if positions is not None:
            arguments.require_positions("positions", positions, len(rows))
        return in_fit_thread(rows.rows.chunks, rows.take, positions)

    def save(self, path: str | os.PathLike) -> None:
        """Write vectors, ids and codes to a safetensors file, which appears whole or not at all.

        The vectors are its tensor "prototypes", piece by piece, so that they need not fit in
        memory. A bank that was memory-mapped from this very file goes on reading the old one. The
        file has checksums of all that it holds.

        Raises:
            ValueError, OSError: ``path`` is no file, or cannot be written.
        """
        self._save(path, {}, {})

    def _save(
        self, path: str | os.PathLike, more: Mapping[str, Tensor], metadata: Mapping[str, str]
    ) -> None:
        """``more`` tensors and ``metadata`` are an adapter's; ``load`` leaves them alone."""
        state = self._state
        in_fit_thread(state.collection.rows.chunks, bank_file.save, path, state, more, metadata)

    @classmethod
    @_ANY_MODE
    def load(
        cls,
        path: str | os.PathLike,
        device: torch.device | str | None = None,
        *,
        check: bool | None = None,
    ) -> "Self":
        """The bank that ``save`` wrote: its vectors memory-mapped, its codes on ``device`` (CPU).

        Codes are used where the file has those that this machine wants, and made anew elsewhere.
        What is read into memory is compared with its checksums, and looked at.

        Args:
            check: read the vectors, too, as ``check()`` does. None = compare them with their
                checksums where they are 64 MiB or less, which takes some 20 ms.

        Raises:
            FileNotFoundError, ValueError: no such file, or what is wrong with it.
        """
        bank = cls.__new__(cls)
        where = arguments.require_device("device", "cpu" if device is None else device)
        bank._begin(in_fit_thread((), bank_file.load, path, where, check is None, layout_for))
        if check:
            bank.check()
        return bank

    def check(self) -> None:
        """Read all vectors, and raise where they are not those that were saved, or prepared.

        Every block of rows of a loaded file is compared with its checksum, which finds whatever
        changed on the disk; files of format 1 have none. Then every bound that searches rely on is
        measured again, which finds whatever changed in memory that matters to them. Time is O(M C),
        about that of preparing.

        Raises:
            ValueError: naming the file and the rows that differ.
        """
        state = self._state
        in_fit_thread(state.collection.rows.chunks, state.check)

    def _begin(self, state: Prepared) -> None:
        self._states = Succession(state)

    def _as_it_is(self) -> "Self":
        """A view of the newest state, which counts for this bank and is not for changing."""
        view = type(self).__new__(type(self))
        view._begin(self._state)
        return view

    @property
    def _state(self) -> Prepared:
        return self._states.newest

    def __copy__(self) -> "Self":
        bank = type(self).__new__(type(self))
        bank._begin(self._state.copied())
        return bank

    def __getstate__(self) -> dict[str, object]:
        state = self._state
        names = ("collection", "coder", "nonfinite", "counts")
        return {name: getattr(state, name) for name in names}

    def __setstate__(self, parts: dict[str, Any]) -> None:
        """Of a copy, also one unpickled, whose vectors are in memory."""
        self._begin(Prepared(**parts))

    def __len__(self) -> int:
        return len(self._state.collection)

    def __repr__(self) -> str:
        rows = self._state.collection
        return (
            f"{type(self).__name__}({len(rows)} x {rows.rows.channels}, metric={self.metric!r}, "
            f"screen={self.screen!r}, dtype={rows.rows.dtype}, device='{rows.device}')"
        )

    def _repr_html_(self) -> str:
        state = self._state
        rows, kind = state.collection.rows, state.collection.ids.kind
        about = {"prototypes": len(state.collection), "width": rows.channels, "dtype": rows.dtype}
        about |= {"metric": state.coder.metric, "screen": state.coder.screen}
        about |= {"device": state.collection.device, "ids": kind or "none yet"}
        return facts(type(self).__name__, about | {"beside the vectors": size(state.nbytes)})

    @property
    def dim(self) -> int:
        """Channels C."""
        return self._state.collection.rows.channels

    @property
    def metric(self) -> str:
        return self._state.coder.metric

    @property
    def screen(self) -> str:
        """``"int8"`` or ``"float"``, whichever is in use: norms beyond 1e18 need float."""
        return self._state.coder.screen

    @property
    def dtype(self) -> torch.dtype:
        """One that holds all vectors exactly."""
        return self._state.collection.rows.dtype

    @property
    def device(self) -> torch.device:
        """Where codes lie and searches run."""
        return self._state.collection.device

    @property
    def ids(self) -> "Tensor | NameArray":
        """(M,) the id of each position: int64 on ``device``, or an array of str (dtype object),
        from which a tensor of indices picks as from a tensor."""
        return self._state.collection.ids.public(self.device)

    @property
    def nbytes(self) -> int:
        """Bytes of codes, bounds and ids (strings, too, and what finds them); and, once vectors
        were searched on a CPU, of their norms and, up to 2^21 coordinates, of the rows in fp32 and
        fp64. The caller's are not counted."""
        return self._state.nbytes

    @property
    def stats(self) -> BankStats:
        """What searches took since the bank was made. Reading it waits for the device."""
        return self._state.counts.read(self._state.coder.product)
