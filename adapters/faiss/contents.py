"""What an index holds at one time: vectors, prepared for search or not, and the caller's ids."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ...kernels import PrototypeBank

_CHUNK_ROWS = 4096
"""What is added in smaller pieces than this is joined up to it."""
_MOVED_ROWS = 1 << 16
_MANY = 256
"""Pieces that wait as they were added; so many more are joined."""


@dataclass(frozen=True)
class Contents:
    """Never changes: its methods return others that share memory."""

    bank: PrototypeBank | None = None
    """Of vectors that a search has needed. Nobody changes it: the next contents have another."""
    added: tuple[Tensor, ...] = ()
    """Vectors behind those."""
    ids: tuple[np.ndarray, ...] = ()
    """int64, of all vectors, where an ``IndexIDMap`` gives them any."""

    @property
    def count(self) -> int:
        """Vectors."""
        return (0 if self.bank is None else len(self.bank)) + sum(map(len, self.added))

    @property
    def is_prepared(self) -> bool:
        """Whether all of it is in the bank."""
        return self.bank is not None and not self.added

    @property
    def id_count(self) -> int:
        return sum(map(len, self.ids))

    def with_added(self, vectors: Tensor, ids: np.ndarray | None) -> Contents:
        """Vectors (n, d), where they are to lie, and ids (n,) for them."""
        if len(vectors) == 0:
            return self
        more = self.ids if ids is None else (*_few_ids(self.ids), ids)
        return replace(self, added=(*_few(self.added), vectors), ids=more)

    def without(self, gone: np.ndarray, ids: np.ndarray | None) -> Contents:
        """Of prepared contents, without those marked in ``gone``; ``ids`` are of what is left."""
        kept = self.ids if ids is None else (ids,)
        if gone.all():
            return Contents(ids=kept)
        bank = copy.copy(self.bank)
        assert bank is not None
        bank.remove(bank.ids[torch.from_numpy(gone).to(bank.device)])
        return Contents(bank, ids=kept)

    def prepared(self, d: int, metric: str, device: torch.device) -> Contents:
        """The same, all of it in the bank."""
        if self.is_prepared:
            return self
        chunks = _joined(self.added)
        if self.bank is None:
            chunks = chunks or [torch.empty(0, d, device=device)]
            bank = PrototypeBank(chunks, metric=metric, nonfinite="exclude", progress=False)
        else:
            bank = copy.copy(self.bank)
            bank.add(chunks)
        return replace(self, bank=bank, added=())

    def pieces(self, rows: int) -> Iterator[Tensor]:
        """All vectors (at most ``rows``, d) float32 on the CPU, one piece after another."""
        bank, count = self.bank, 0 if self.bank is None else len(self.bank)
        for start in range(0, count, rows):
            assert bank is not None
            yield bank.vectors(torch.arange(start, min(start + rows, count))).float()
        for chunk in self.added:
            yield from chunk.cpu().split(rows)

    def on(self, device: torch.device) -> Contents:
        """The same with vectors on ``device``, to be prepared there."""
        return Contents(added=tuple(x.to(device) for x in self.pieces(_MOVED_ROWS)), ids=self.ids)

    def with_one_id_map(self) -> Contents:
        """The same, with ids in one array."""
        if len(self.ids) == 1:
            return self
        return replace(self, ids=(np.concatenate([np.empty(0, dtype=np.int64), *self.ids]),))


def _few(chunks: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return chunks if len(chunks) % _MANY else tuple(_joined(chunks))


def _few_ids(ids: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    return ids if len(ids) < _MANY else (np.concatenate(ids),)


def _joined(chunks: Iterable[Tensor]) -> list[Tensor]:
    """With small neighbours joined: few chunks after many small additions."""
    groups: list[list[Tensor]] = []
    room = 0
    for chunk in chunks:
        if len(chunk) > room:
            groups.append([])
            room = _CHUNK_ROWS
        groups[-1].append(chunk)
        room -= len(chunk)
    return [group[0] if len(group) == 1 else torch.cat(group) for group in groups]
