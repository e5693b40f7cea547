"""IndexPreTransform: vectors divided by their norms before they are added or looked for."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor

from ...kernels.contract.arguments import require_int
from .arrays import Array, returned
from .contents import Contents
from .flat import IndexFlat
from .id_map import IndexIDMap
from .index import Index
from .normalization import normalized
from .tensors import matrix


class NormalizationTransform:
    """Divides vectors of ``d`` channels by their Euclidean norm, as ``normalize_L2`` does."""

    is_trained = True

    def __init__(self, d: int, norm: float = 2.0) -> None:
        if norm != 2:
            raise NotImplementedError(f"norm must be 2.0; got {norm!r}")
        self.d_in = self.d_out = require_int("d", d, 1)
        self.norm = 2.0

    def train(self, x: object) -> None:
        """Nothing: there is nothing to learn."""
        matrix("x", x, self.d_in)

    def apply(self, x: object) -> Array:
        """The vectors (n, d), divided."""
        return returned(normalized(matrix("x", x, self.d_in)), x)

    apply_py = apply

    def reverse_transform(self, x: object) -> Array:
        """A copy, as in FAISS: norms are gone."""
        return returned(matrix("x", x, self.d_in, copy=True), x)


class IndexPreTransform(Index):
    """``IndexPreTransform(transform, index)``: ``index`` of transformed vectors.

    With a flat index by scalar product it searches by cosine similarity. ``index`` may be an
    ``IndexIDMap`` of a flat one. Vectors come back as they are kept, transformed.
    """

    __slots__ = ("index", "own_fields", "transform")

    def __init__(self, ltrans: NormalizationTransform, index: Index) -> None:
        if not isinstance(ltrans, NormalizationTransform):
            raise TypeError(f"ltrans must be a NormalizationTransform; got {type(ltrans).__name__}")
        if not isinstance(index, (IndexFlat, IndexIDMap)):
            raise TypeError(
                f"index must be an IndexFlat or an IndexIDMap; got {type(index).__name__}"
            )
        if ltrans.d_out != index.d:
            raise RuntimeError(f"ltrans must have d = {index.d}, as index has; got {ltrans.d_out}")
        super().__init__(index.d, index.metric_type)
        self.transform, self.own_fields = ltrans, False
        self.index: Index = index

    @property
    def ntotal(self) -> int:
        return self.index.ntotal

    def add(self, x: object) -> None:
        """Append vectors (n, d), transformed."""
        self.index.add(normalized(matrix("x", x, self.d)))

    def add_with_ids(self, x: object, ids: object) -> None:
        """Append vectors (n, d), transformed, with ids (n,), where ``index`` has ids."""
        self.index.add_with_ids(normalized(matrix("x", x, self.d)), ids)

    def reset(self) -> None:
        self.index.reset()

    def merge_from(self, otherIndex: Index, add_id: int = 0) -> None:
        """Move all vectors of an index of the same kind behind the own ones."""
        self.index.merge_from(self._index_of(otherIndex), add_id)

    def check_compatible_for_merge(self, otherIndex: object) -> None:
        """RuntimeError unless ``otherIndex`` is another index of this kind."""
        self.index.check_compatible_for_merge(self._index_of(otherIndex))

    @staticmethod
    def _index_of(otherIndex: object) -> Index:
        if not isinstance(otherIndex, IndexPreTransform):
            raise RuntimeError(f"otherIndex must be an IndexPreTransform; got {otherIndex!r}")
        return otherIndex.index

    def __repr__(self) -> str:
        return f"IndexPreTransform({self.index!r})"

    @property
    def _flat(self) -> IndexFlat:
        return self.index._flat

    @property
    def _has_ids(self) -> bool:
        return self.index._has_ids

    def _contents(self) -> Contents:
        return self.index._contents()

    def _moved(self, device: torch.device) -> Index:
        twin = copy.copy(self)
        twin.index = self.index._moved(device)
        return twin

    def _transformed(self, x: Tensor) -> Tensor:
        return self.index._transformed(normalized(x))

    def _append(self, vectors: Tensor, ids: np.ndarray | None) -> None:
        self.index._append(vectors, ids)

    def _ids(self) -> np.ndarray:
        return self.index._ids()

    def _labels(self, positions: Tensor) -> Tensor:
        return self.index._labels(positions)

    def _positions(self, keys: np.ndarray, name: str = "key") -> np.ndarray:
        return self.index._positions(keys, name)

    def _remove(self, gone: np.ndarray) -> None:
        self.index._remove(gone)
