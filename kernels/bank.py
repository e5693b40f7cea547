"""PrototypeBank: prototypes prepared once, searched many times, added to and removed from."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from . import _bank_file, _checks, _coding, _exact, _ops, _searches, _store, _transforms
from ._collection import Collection
from .topk import Matches

_ANY_MODE = torch.inference_mode(False)  # what is made in inference mode never changes outside it


@dataclass(frozen=True)
class BankStats:
    """What the searches of a bank took so far."""

    queries: int = 0
    certified: int = 0
    """Queries whose first screen was proof enough."""
    repaired: int = 0
    """Queries for which it left too much, so that a wider search was needed; on CUDA counted once
    for each run of pages that needed it."""
    rows_rescored: int = 0
    """Pairs evaluated in fp64 after an int8 screen; not counted on CUDA."""
    bytes_screened: int = 0
    """Bytes of codes read, or of vectors where the screen is ``"float"``."""


class PrototypeBank:
    """Prototypes prepared for exact search at int8 speed.

    Results are those of ``flashmatch.topk`` on the same rows, bit for bit. Preparing takes one byte
    per coordinate and about 16 per row; the vectors are referred to, not copied, and must not be
    changed meanwhile. They may lie elsewhere than the codes, in host memory or in a memory-mapped
    file: a search reads few more than k of them per query.

    Args:
        prototypes: (M, C) tensor, a sequence of such that are chunks of one set, or the path of a
            safetensors file, which is memory-mapped (its tensor "prototypes", or its only matrix).
            float32, float16, bfloat16 or float64; M may be 0.
        metric: ``"cosine"``, ``"dot"`` or ``"l2"``, as of ``flashmatch.topk``.
        ids: (M,) unique non-negative integers; None = 0, 1, 2, ....
        device: where codes lie and searches run; None = where the prototypes are.
        screen: ``"int8"`` searches codes, ``"float"`` the vectors, as ``topk`` does; ``"auto"``
            takes int8 where the device multiplies such matrices fast.
        nonfinite: ``"raise"`` refuses vectors with NaN, inf or a norm beyond fp64; ``"exclude"``
            keeps such a prototype but never returns it, and gives such a query -inf and -1.
        progress: show a bar while preparing; None = in a terminal, if it takes long.

    Raises:
        TypeError, ValueError, FileNotFoundError: naming the argument, what was expected, and what
            was given.

    Preparing reads every vector once, O(M C), and holds 64 MiB or so at a time beside the codes.
    """

    @_ANY_MODE
    def __init__(
        self,
        prototypes: Tensor | Sequence[Tensor] | str | os.PathLike,
        *,
        metric: str = "cosine",
        ids: object = None,
        device: torch.device | str | None = None,
        screen: str = "auto",
        nonfinite: str = "raise",
        progress: bool | None = None,
    ) -> None:
        _checks.require_choice("metric", metric, _checks.METRICS)
        _checks.require_choice("screen", screen, _coding.SCREENS)
        _checks.require_choice("nonfinite", nonfinite, _checks.NONFINITE)
        source = prototypes
        if isinstance(prototypes, (str, os.PathLike)):
            prototypes = _store.open_matrix(prototypes)
        chunks = [chunk.detach() for chunk in _checks.require_prototypes(prototypes)]
        place = chunks[0].device if device is None else torch.empty(0, device=device).device
        rows = Collection(chunks[0].shape[1], chunks[0].dtype, place)
        rows.append(chunks, rows.ids.checked(ids, sum(map(len, chunks))))
        coder = _coding.Coder(rows, metric, screen)
        coder.code(0, nonfinite == "exclude", progress)
        self._begin(rows, coder, nonfinite, isinstance(source, (str, os.PathLike)))

    def topk(self, queries: Tensor, k: int, *, mask: Tensor | None = None) -> Matches:
        """The k most similar prototypes of each query, exactly: as ``flashmatch.topk``.

        Args:
            queries: (Q, C), any of the four dtypes, any strides, any device.
            k: matches per query, 0 <= k <= len(bank).
            mask: bool, (M,) or (Q, M) by position, on the queries' device; True = may match.

        Returns:
            ``Matches(scores, indices)`` on the queries' device; ``bank.ids[indices]`` are the ids.
            Scores are differentiable with respect to the queries.

        Raises:
            TypeError, ValueError: naming the argument, what was expected, and what was given.

        Time is O(Q M C); memory beyond inputs and outputs is at most
        ``flashmatch.kernels.WORKSPACE_BYTES``.
        """
        _checks.require_vectors("queries", queries)
        self._require_channels("queries", queries)
        k = _checks.require_k(k, len(self))
        count = queries.shape[0]  # len() is no symbol
        _checks.require_mask(mask, count, len(self), queries.device)
        if count == 0 or k == 0:
            empty = queries.new_empty(count, k, dtype=torch.float32)
            return Matches(empty, empty.long())
        bank, place = self._handle, queries.device
        if torch.compiler.is_exporting():  # the program outlives this bank: it keeps the vectors
            bank, mask = None, self._rows.mask_by_row(mask)
            mask = mask if mask is None else mask.to(place)
        chunks, exclude = self._rows.rows.chunks, self._nonfinite == "exclude"
        scores, rows = _transforms.search(
            queries, chunks, k, self._coder.metric, mask, None, exclude, bank
        )
        return Matches(scores, self._rows.positions(rows.to(self.device)).to(place))

    @_ANY_MODE
    def add(self, prototypes: Tensor | Sequence[Tensor], ids: object = None) -> Tensor:
        """Append prototypes (m, C), or chunks of them, and return their ids (m,).

        They take the positions after the last. ids None = above every id there ever was. Costs what
        is added, and at most one page of 1,024 rows besides. A refused call changes nothing.

        Raises:
            TypeError, ValueError: wrong dtype or width, ids that repeat or are in the bank already,
                and, unless ``nonfinite="exclude"``, vectors that are not finite.
        """
        chunks = [chunk.detach() for chunk in _checks.require_prototypes(prototypes)]
        for chunk in chunks:
            self._require_channels("prototypes", chunk)
        fresh = self._rows.ids.checked(ids, sum(map(len, chunks)))
        first = 0
        for chunk in chunks if self._nonfinite == "raise" else ():
            _checks.refuse_nonfinite("prototypes", ~_exact.norms(chunk).isfinite(), first)
            first += len(chunk)
        start = len(self._rows.ids)
        self._rows.append(chunks, fresh)
        self._coder.code(start, True, progress=False)
        return fresh.to(self.device)

    @_ANY_MODE
    def remove(self, ids: object) -> None:
        """Remove the prototypes with these ids: an integer, or a 1-D tensor or sequence of them.

        Later positions move up; ids stay. Costs what is removed; once most rows are gone, what is
        left of vectors that are not memory-mapped is copied and prepared again.

        Raises:
            TypeError, ValueError: not integers, or not all in the bank; nothing is removed then.
        """
        rows = self._rows.ids.required(ids)
        self._rows.remove(rows)
        if 2 * len(self) < len(self._rows.ids) and not self._mapped:
            self._rows.compact()
            self._coder.code(0, True, progress=False)
        else:
            self._coder.close(rows)

    def vectors(self, positions: Tensor | None = None) -> Tensor:
        """A copy (n, C) of the vectors at ``positions`` (n,) int64, or of all, on the CPU.

        Raises:
            TypeError, ValueError: not a 1-D int64 tensor of positions from 0 to len(self) - 1.
        """
        if positions is not None:
            _checks.require_positions("positions", positions, len(self))
        return self._rows.take(positions)

    def save(self, path: str | os.PathLike) -> None:
        """Write vectors, ids and codes to a safetensors file, which appears whole or not at all.

        The vectors are its tensor "prototypes", piece by piece, so that they need not fit in
        memory. A bank that was memory-mapped from this very file goes on reading the old one.
        """
        _bank_file.save(path, self._rows, self._coder, self._nonfinite)

    @classmethod
    @_ANY_MODE
    def load(
        cls, path: str | os.PathLike, device: torch.device | str | None = None
    ) -> "PrototypeBank":
        """The bank that ``save`` wrote: its vectors memory-mapped, its codes on ``device`` (CPU).

        Raises:
            FileNotFoundError, ValueError: no such file, or not the file of a bank.
        """
        bank = cls.__new__(cls)
        opened = _bank_file.load(path, torch.empty(0, device=device or "cpu").device)
        bank._begin(*opened, mapped=True)
        return bank

    def _begin(self, rows: Collection, coder: _coding.Coder, nonfinite: str, mapped: bool) -> None:
        self._rows, self._coder, self._nonfinite, self._mapped = rows, coder, nonfinite, mapped
        self._stats, self._repaired = (
            BankStats(),
            torch.zeros((), dtype=torch.int64, device=rows.device),
        )
        self._handle = _ops.enter(self)

    def __setstate__(self, state: dict) -> None:
        """A copy, also one unpickled, is another bank to the operators."""
        self.__dict__.update(state)
        self._handle = _ops.enter(self)

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return (
            f"PrototypeBank({len(self)} x {self.dim}, metric={self.metric!r}, "
            f"screen={self.screen!r}, dtype={self.dtype}, device='{self.device}')"
        )

    @property
    def dim(self) -> int:
        """Channels C."""
        return self._rows.rows.channels

    @property
    def metric(self) -> str:
        return self._coder.metric

    @property
    def screen(self) -> str:
        """``"int8"`` or ``"float"``, whichever is in use: norms beyond 1e18 need float."""
        return self._coder.screen

    @property
    def dtype(self) -> torch.dtype:
        """One that holds all vectors exactly."""
        return self._rows.rows.dtype

    @property
    def device(self) -> torch.device:
        """Where codes lie and searches run."""
        return self._rows.device

    @property
    def ids(self) -> Tensor:
        """(M,) int64 on ``device``: the id of each position."""
        return self._rows.ids.by_row[self._rows.ids.present].to(self.device)

    @property
    def nbytes(self) -> int:
        """Bytes of codes, bounds and ids; without the vectors, which are the caller's."""
        return self._coder.nbytes + 9 * len(self._rows.ids)

    @property
    def stats(self) -> BankStats:
        """What searches took since the bank was made. Reading it waits for the device."""
        repaired = int(self._repaired)
        certified = max(0, self._stats.queries - repaired)
        return replace(self._stats, certified=certified, repaired=repaired)

    def _require_channels(self, name: str, value: Tensor) -> None:
        if value.shape[1] != self.dim:
            raise ValueError(
                f"{name} must have the bank's {self.dim} channels; got {tuple(value.shape)}"
            )

    def _search(self, queries: Tensor, k: int, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Scores and rows (Q, k)."""
        if self._nonfinite == "raise":
            _checks.refuse_nonfinite("queries", ~_exact.norms(queries).isfinite())
        mask = mask if mask is None else mask.to(self.device)
        found = _searches.search(queries.to(self.device), self._rows, self._coder, k, mask)
        self._repaired += found.repaired  # unread, so that nothing waits for the device
        counts = self._stats
        self._stats = BankStats(
            queries=counts.queries + len(queries),
            rows_rescored=counts.rows_rescored + found.rescored,
            bytes_screened=counts.bytes_screened + found.screened,
        )
        return found.scores.to(queries.device), found.rows.to(queries.device)
