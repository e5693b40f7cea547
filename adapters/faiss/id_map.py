"""IndexIDMap and IndexIDMap2: the caller's ids for the rows of a flat index."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor

from .contents import Contents
from .flat import IndexFlat
from .index import Index
from .integers import int64
from .integers import key as as_key
from .tensors import matrix
from .vectors import Vector


class IndexIDMap(Index):
    """``index``, empty when given, with ids of the caller's for its rows.

    Ids are int64 of any value and may repeat; of uint64 the bits are kept, as int64. Removing
    leaves the others as they are. As in FAISS, vectors cannot be reconstructed by id;
    ``IndexIDMap2`` can. ``index`` may be an ``IndexPreTransform`` of a flat index.
    """

    __slots__ = ("_sorted", "index", "own_fields")

    def __init__(self, index: Index) -> None:
        if not isinstance(index, Index) or index._has_ids:
            raise TypeError(
                "index must be an IndexFlat, or an IndexPreTransform of one; "
                f"got {type(index).__name__}"
            )
        if index.ntotal:
            raise RuntimeError(f"index must be empty; got {index.ntotal} vectors")
        super().__init__(index.d, index.metric_type)
        self.index, self.own_fields = index, False
        self._sorted: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None

    @property
    def ntotal(self) -> int:
        return self.index._flat._states.newest.id_count

    @property
    def id_map(self) -> Vector:
        """(ntotal,) int64, read-only: the id of each row, with ``at(i)`` and ``size()`` besides."""
        ids = self._ids().view(Vector)
        ids.flags.writeable = False
        return ids

    def add(self, x: object) -> None:
        """As in FAISS: an index with ids wants them."""
        raise RuntimeError(f"{type(self).__name__} needs ids: use add_with_ids")

    def add_with_ids(self, x: object, ids: object) -> None:
        """Append vectors (n, d) with ids (n,)."""
        vectors, ids = matrix("x", x, self.d, copy=True), int64("ids", ids)
        self._append(self._transformed(vectors), ids.copy())

    def reset(self) -> None:
        self.index.reset()

    def merge_from(self, otherIndex: IndexIDMap, add_id: int = 0) -> None:
        """Move all vectors of an index with ids behind the own ones, and add ``add_id`` to ids."""
        self.check_compatible_for_merge(otherIndex)
        more = as_key("add_id", add_id)
        self._append(otherIndex._flat._vectors(), otherIndex._ids() + np.int64(more))
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
        self._contents()
        return self.index._flat

    def _contents(self) -> Contents:
        contents = self.index._contents()
        if contents.count != contents.id_count:
            raise RuntimeError(
                f"index has {contents.count} vectors for {contents.id_count} ids: it must be "
                f"changed through its {type(self).__name__} only"
            )
        return contents

    def _moved(self, device: torch.device) -> Index:
        twin = copy.copy(self)
        twin.index = self.index._moved(device)
        return twin

    @property
    def _has_ids(self) -> bool:
        return True

    def _transformed(self, x: Tensor) -> Tensor:
        return self.index._transformed(x)

    def _append(self, vectors: Tensor, ids: np.ndarray | None) -> None:
        if ids is None:
            raise RuntimeError(f"{type(self).__name__} needs ids")
        if len(ids) != len(vectors):
            raise ValueError(f"ids must be one for each of {len(vectors)} vectors; got {len(ids)}")
        self.index._append(vectors, ids)

    def _ids(self) -> np.ndarray:
        states = self.index._flat._states
        ids = states.newest.ids
        return ids[0] if len(ids) == 1 else states.change(_with_one_id_map)[0]

    def _labels(self, positions: Tensor) -> Tensor:
        if self.ntotal == 0:
            return positions
        ids = torch.from_numpy(self._ids()).to(positions.device)
        return torch.where(positions < 0, positions, ids[positions.clamp(min=0)])

    def _positions(self, keys: np.ndarray, name: str = "key") -> np.ndarray:
        raise RuntimeError("IndexIDMap cannot reconstruct by id; IndexIDMap2 can")

    def _remove(self, gone: np.ndarray) -> None:
        self.index._flat._remove(gone, self._ids()[~gone])


class IndexIDMap2(IndexIDMap):
    """``IndexIDMap`` that also finds vectors by id; of several with one id, the last.

    Ids are sorted for that when first needed after a change, O(ntotal log ntotal).
    """

    __slots__ = ()

    def check_consistency(self) -> None:
        """RuntimeError where ids repeat, or are not as many as vectors."""
        self._contents()
        ids, times = np.unique(self._ids(), return_counts=True)
        if len(ids) != self.ntotal:
            raise RuntimeError(f"ids must differ; {ids[times > 1][0]} repeats")

    def construct_rev_map(self) -> None:
        """Nothing: ids are sorted when they are first looked for."""

    def _positions(self, keys: np.ndarray, name: str = "key") -> np.ndarray:
        id_map = self._ids()
        if self._sorted is None or self._sorted[0] is not id_map:
            order = id_map.argsort(kind="stable")
            self._sorted = id_map, order, id_map[order]
        _, order, ids = self._sorted
        at = np.searchsorted(ids, keys, side="right") - 1
        there = (at >= 0) & (ids[at] == keys) if len(ids) else np.zeros(len(keys), dtype=bool)
        if not there.all():
            raise RuntimeError(f"{name} must be the id of a vector; got {keys[~there][0]}")
        return order[at]


def _with_one_id_map(contents: Contents) -> tuple[Contents, tuple[np.ndarray, ...]]:
    merged = contents.with_one_id_map()
    return merged, merged.ids
