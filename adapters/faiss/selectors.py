"""Which ids a search may return, or ``remove_ids`` removes."""

from abc import ABC, abstractmethod

import numpy as np
from torch import Tensor

from ...kernels.contract.arguments import require_int
from .integers import INT64, int64, key


class IDSelector(ABC):
    """A set of ids. Subclasses say which of an array of ids are in it."""

    @abstractmethod
    def members(self, ids: np.ndarray) -> np.ndarray:
        """(n,) bool for ``ids`` (n,) int64."""

    def is_member(self, id: int) -> bool:
        return bool(self.members(np.array([key("id", id)], dtype=np.int64))[0])


class IDSelectorAll(IDSelector):
    def members(self, ids: np.ndarray) -> np.ndarray:
        return np.ones(len(ids), dtype=bool)


class IDSelectorRange(IDSelector):
    """``imin`` <= id < ``imax``. ``assume_sorted`` is a hint that is not needed here."""

    def __init__(self, imin: int, imax: int, assume_sorted: bool = False) -> None:
        self.imin = require_int("imin", imin, INT64.min)
        self.imax = require_int("imax", imax, INT64.min)
        self.assume_sorted = assume_sorted

    def members(self, ids: np.ndarray) -> np.ndarray:
        return (ids >= self.imin) & (ids < self.imax)


class IDSelectorBatch(IDSelector):
    """The ids given: ``IDSelectorBatch(ids)``, or ``IDSelectorBatch(n, swig_ptr(ids))``."""

    def __init__(self, ids: object, indices: object = None) -> None:
        self._ids = int64("ids", _subset("ids", ids, indices))

    @property
    def n(self) -> int:
        return len(self._ids)

    def members(self, ids: np.ndarray) -> np.ndarray:
        return np.isin(ids, self._ids)


class IDSelectorArray(IDSelectorBatch):
    """As ``IDSelectorBatch``; FAISS's differ in speed only."""


class IDSelectorBitmap(IDSelector):
    """Bit ``id % 8`` of byte ``id // 8``: ``(bitmap)``, uint8, or ``(n, swig_ptr(bitmap))``.

    Ids beyond the bitmap, or negative, are not in it.
    """

    def __init__(self, bitmap: object, indices: object = None) -> None:
        array = _subset("bitmap", bitmap, indices)
        array = array.cpu().numpy() if isinstance(array, Tensor) else np.asarray(array)
        if array.dtype != np.uint8 or array.ndim != 1:
            raise ValueError(
                f"bitmap must be a one-dimensional uint8 array; got {array.dtype} {array.shape}"
            )
        self._bytes = array.copy()

    @property
    def n(self) -> int:
        return len(self._bytes)

    def members(self, ids: np.ndarray) -> np.ndarray:
        inside = (ids >= 0) & (ids < 8 * self.n)
        member = np.zeros(len(ids), dtype=bool)
        member[inside] = self._bytes[ids[inside] >> 3] >> (ids[inside] & 7) & 1
        return member


class IDSelectorNot(IDSelector):
    def __init__(self, sel: IDSelector) -> None:
        self.sel = require_selector("sel", sel)

    def members(self, ids: np.ndarray) -> np.ndarray:
        return ~self.sel.members(ids)


class _OfTwo(IDSelector):
    def __init__(self, lhs: IDSelector, rhs: IDSelector) -> None:
        self.lhs, self.rhs = require_selector("lhs", lhs), require_selector("rhs", rhs)


class IDSelectorAnd(_OfTwo):
    def members(self, ids: np.ndarray) -> np.ndarray:
        return self.lhs.members(ids) & self.rhs.members(ids)


class IDSelectorOr(_OfTwo):
    def members(self, ids: np.ndarray) -> np.ndarray:
        return self.lhs.members(ids) | self.rhs.members(ids)


class IDSelectorXOr(_OfTwo):
    def members(self, ids: np.ndarray) -> np.ndarray:
        return self.lhs.members(ids) ^ self.rhs.members(ids)


class IDSelectorTranslated(IDSelector):
    """The positions whose ids are in ``sel``: ``id_map`` is (n,) ids, or has them as ``id_map``."""

    def __init__(self, id_map: object, sel: IDSelector) -> None:
        self.id_map = int64("id_map", getattr(id_map, "id_map", id_map))
        self.sel = require_selector("sel", sel)

    def members(self, ids: np.ndarray) -> np.ndarray:
        inside = (ids >= 0) & (ids < len(self.id_map))
        inside[inside] = self.sel.members(self.id_map[ids[inside]])
        return inside


class SearchParameters:
    """``SearchParameters(sel=selector)``: only ids of the selector are searched."""

    __slots__ = ("sel",)

    def __init__(self, *, sel: IDSelector | None = None) -> None:
        self.sel = sel


def selected(params: SearchParameters | None) -> IDSelector | None:
    """The selector of search parameters."""
    if params is None:
        return None
    if not isinstance(params, SearchParameters):
        raise TypeError(f"params must be SearchParameters or None; got {type(params).__name__}")
    return None if params.sel is None else require_selector("params.sel", params.sel)


def require_selector(name: str, value: object) -> IDSelector:
    if not isinstance(value, IDSelector):
        raise TypeError(f"{name} must be an IDSelector; got {type(value).__name__}")
    return value


def _subset(name: str, first: object, second: object) -> object:
    """The array of ``(array)``, or of FAISS's ``(n, swig_ptr(array))``."""
    if second is None:
        return first
    array, n = np.asarray(second), require_int("n", first, 0)
    if len(array) < n:
        raise ValueError(f"{name} must have the {n} elements announced; got {len(array)}")
    return array[:n]
