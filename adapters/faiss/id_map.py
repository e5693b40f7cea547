"""IndexIDMap and IndexIDMap2: the caller's ids for the rows of a flat index."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .arrays import int64, matrix
from .contents import Contents
from .flat import IndexFlat
from .index import Index


class IndexIDMap(Index):
    """``index``, empty when given, with ids of the caller's for its rows.

    Ids are int64 of any value and may repeat. Removing leaves the others as they are. As in FAISS,
    vectors cannot be reconstructed by id; ``IndexIDMap2`` can.
    """

    __slots__ = ("_sorted", "index")

    def __init__(self, index: IndexFlat) -> None:
        if not isinstance(index, IndexFlat):
            raise TypeError(f"index must be an IndexFlat; got {type(index).__name__}")
        if index.ntotal:
            raise RuntimeError(f"index must be empty; got {index.ntotal} vectors")
        super().__init__(index.d, index.metric_type)
        self.index = index
        self._sorted: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None

    @property
    def ntotal(self) -> int:
        return self.index._states.newest.id_count

    @property
    def id_map(self) -> np.ndarray:
        """(ntotal,) int64: the id of each row."""
        ids = self.index._states.newest.ids
        if len(ids) != 1:
            ids = self.index._states.change(_with_one_id_map)
        return ids[0]

    def add(self, x: object) -> None:
        """As in FAISS: an index with ids wants them."""
        raise RuntimeError(f"{type(self).__name__} needs ids: use add_with_ids")

    def add_with_ids(self, x: object, ids: object) -> None:
        """Append vectors (n, d) with ids (n,)."""
        vectors, ids = matrix("x", x, self.d, copy=True), int64("ids", ids)
        if len(ids) != len(vectors):
            raise ValueError(f"ids must be one for each of {len(vectors)} vectors; got {len(ids)}")
        self.index._append(vectors, ids.copy())

    def reset(self) -> None:
        self.index.reset()

    def merge_from(self, otherIndex: IndexIDMap, add_id: int = 0) -> None:
        """Move all vectors of an index with ids behind the own ones, and add ``add_id`` to ids."""
        self.check_compatible_for_merge(otherIndex)
        ids = otherIndex.id_map + np.int64(add_id)
        self.index._append(otherIndex._flat._vectors(), ids)
        otherIndex.reset()

    def check_compatible_for_merge(self, otherIndex: object) -> None:
        """RuntimeError unless ``otherIndex`` has ids, and an index that fits the own one."""
        if not isinstance(otherIndex, IndexIDMap):
            raise RuntimeError(f"otherIndex must be an IndexIDMap; got {otherIndex!r}")
        self.index.check_compatible_for_merge(otherIndex.index)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.index!r})"

    @property
    def _flat(self) -> IndexFlat:
        if self.index.ntotal != self.ntotal:
            raise RuntimeError(
                f"index has {self.index.ntotal} vectors for {self.ntotal} ids: it must be changed "
                f"through its {type(self).__name__} only"
            )
        return self.index

    def _ids(self) -> np.ndarray:
        return self.id_map

    def _labels(self, positions: Tensor) -> Tensor:
        if self.ntotal == 0:
            return positions
        ids = torch.from_numpy(self.id_map).to(positions.device)
        return torch.where(positions < 0, positions, ids[positions.clamp(min=0)])

    def _positions(self, keys: np.ndarray) -> np.ndarray:
        raise RuntimeError("IndexIDMap cannot reconstruct by id; IndexIDMap2 can")

    def _remove(self, gone: np.ndarray) -> None:
        self.index._remove(gone, self.id_map[~gone])


class IndexIDMap2(IndexIDMap):
    """``IndexIDMap`` that also finds vectors by id; of several with one id, the last.

    Ids are sorted for that when first needed after a change, O(ntotal log ntotal).
    """

    __slots__ = ()

    def _positions(self, keys: np.ndarray) -> np.ndarray:
        id_map = self.id_map
        if self._sorted is None or self._sorted[0] is not id_map:
            order = id_map.argsort(kind="stable")
            self._sorted = id_map, order, id_map[order]
        _, order, ids = self._sorted
        at = np.searchsorted(ids, keys, side="right") - 1
        there = (at >= 0) & (ids[at] == keys) if len(ids) else np.zeros(len(keys), dtype=bool)
        if not there.all():
            raise RuntimeError(f"key must be the id of a vector; got {keys[~there][0]}")
        return order[at]


def _with_one_id_map(contents: Contents) -> tuple[Contents, tuple[np.ndarray, ...]]:
    merged = contents.with_one_id_map()
    return merged, merged.ids
