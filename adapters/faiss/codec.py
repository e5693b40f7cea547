"""Vectors as FAISS's codes: of a flat index, the bytes of their float32 numbers."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor

from ...kernels.contract.arguments import require_dense
from .arrays import Array, require_out, returned
from .integers import int64
from .tensors import matrix


class Codec(ABC):
    """What an index does with codes (n, code_size) uint8."""

    __slots__ = ()

    d: int

    @property
    @abstractmethod
    def _has_ids(self) -> bool:
        """Whether labels are the caller's."""

    @abstractmethod
    def _transformed(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def _append(self, vectors: Tensor, ids: np.ndarray | None) -> None: ...

    def sa_code_size(self) -> int:
        """Bytes of a vector."""
        return 4 * self.d

    def sa_encode(self, x: object, codes: Array | None = None):
        """The codes of vectors (n, d), as they would be kept."""
        vectors = self._transformed(matrix("x", x, self.d))
        shape = len(vectors), self.sa_code_size()
        require_out("codes", codes, shape, "uint8")
        return returned(vectors.flatten().view(torch.uint8).view(shape), x, codes)

    def sa_decode(self, codes: object, x: Array | None = None):
        """The vectors (n, d) float32 of codes."""
        vectors = self._decoded(codes)
        require_out("x", x, tuple(vectors.shape), "float32")
        return returned(vectors, codes, x)

    def add_sa_codes(self, codes: object, ids: object = None) -> None:
        """Append the vectors of codes as they are; ``ids`` (n,) are for indexes that have any."""
        vectors = self._decoded(codes)
        if ids is not None and not self._has_ids:
            raise RuntimeError("ids need an index with ids: IndexIDMap(index)")
        self._append(vectors, None if ids is None else int64("ids", ids).copy())

    def _decoded(self, codes: object) -> Tensor:
        """A copy: float32 numbers may not begin anywhere."""
        given = codes if isinstance(codes, Tensor) else torch.from_numpy(np.array(codes))
        require_dense("codes", given)
        if given.dtype != torch.uint8:
            raise TypeError(f"codes must be uint8; got {given.dtype}")
        if given.ndim != 2 or given.shape[1] != self.sa_code_size():
            raise ValueError(
                f"codes must have shape (n, {self.sa_code_size()}); got {tuple(given.shape)}"
            )
        return given.flatten().clone().view(torch.float32).view(len(given), self.d)
