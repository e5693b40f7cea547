"""What all indexes do alike: labels on top of a flat index that numbers its rows.

Codes are FAISS's of a flat index, (n, code_size) uint8: the bytes of float32 numbers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ...kernels.contract.arguments import require_dense, require_int
from .arrays import Array, matches, require_out, returned
from .contents import Contents
from .integers import INT64, int64
from .integers import key as as_key
from .selectors import IDSelector, IDSelectorBatch, SearchParameters, selected
from .tensors import matrix

if TYPE_CHECKING:
    from .flat import IndexFlat


class Index(ABC):
    """An index over vectors of ``d`` float32 channels.

    ``x`` below is (n, d): a numpy array, or whatever numpy makes one of, or a tensor; other numbers
    are converted to float32. Results are arrays, or tensors on its device where ``x`` is a tensor;
    arrays given as D, I, R, labels or ``x`` of a reconstruction are written to and returned.

    Wrong arguments raise TypeError or ValueError; what FAISS refuses with RuntimeError is
    RuntimeError here too. Unknown attributes cannot be set.
    """

    __slots__ = ("d", "metric_arg", "metric_type", "verbose")

    is_trained = True

    def __init__(self, d: int, metric_type: int) -> None:
        self.d, self.metric_type = d, metric_type
        self.metric_arg, self.verbose = 0.0, False

    @property
    @abstractmethod
    def ntotal(self) -> int:
        """Vectors in the index."""

    @property
    @abstractmethod
    def _flat(self) -> IndexFlat:
        """The vectors, by position."""

    @property
    @abstractmethod
    def _has_ids(self) -> bool:
        """Whether labels are the caller's."""

    @abstractmethod
    def _ids(self) -> np.ndarray:
        """(ntotal,) int64: the label of each position."""

    @abstractmethod
    def _labels(self, positions: Tensor) -> Tensor:
        """Labels of positions; -1 stays -1."""

    @abstractmethod
    def _append(self, vectors: Tensor, ids: np.ndarray | None) -> None: ...

    @abstractmethod
    def _remove(self, gone: np.ndarray) -> None:
        """Remove the positions marked in ``gone`` (ntotal,) bool."""

    @abstractmethod
    def _positions(self, keys: np.ndarray, name: str = "key") -> np.ndarray:
        """Positions of labels ``name``, or RuntimeError that names one that is not there."""

    @abstractmethod
    def _contents(self) -> Contents:
        """All that it holds at one time."""

    @abstractmethod
    def _moved(self, device: torch.device) -> Index:
        """An index of its own with the same contents on ``device``."""

    def _transformed(self, x: Tensor) -> Tensor:
        """Vectors (n, d) as they are kept."""
        return x

    @abstractmethod
    def reset(self) -> None:
        """Remove all vectors."""

    @abstractmethod
    def add(self, x: object) -> None:
        """Append vectors (n, d), numbered on."""

    @abstractmethod
    def add_with_ids(self, x: object, ids: object) -> None:
        """Append vectors (n, d) with ids (n,)."""

    @abstractmethod
    def merge_from(self, otherIndex: Any, add_id: int = 0) -> None:
        """Move all vectors of another index behind the own ones."""

    @abstractmethod
    def check_compatible_for_merge(self, otherIndex: Any) -> None:
        """RuntimeError unless ``otherIndex`` can be merged."""

    def train(self, x: object) -> None:
        """Nothing: flat indexes need no training."""
        matrix("x", x, self.d)

    def search(
        self,
        x: object,
        k: int,
        D: Array | None = None,
        I: Array | None = None,  # noqa: E741
        *,
        params: SearchParameters | None = None,
    ) -> tuple:
        """The ``k`` nearest: distances D (n, k) float32 and labels I (n, k) int64, best first.

        Scalar products descend, squared distances ascend; of equal ones the row added first comes
        first. Ranks without a match have label -1 and the largest float32 as distance (negative
        for scalar products).

        Time is O(n ntotal d); memory beyond inputs and results is at most
        ``flashmatch.kernels.WORKSPACE_BYTES``.
        """
        queries, k = matrix("x", x, self.d), require_int("k", k, 1)
        require_out("D", D, (len(queries), k), "float32")
        require_out("I", I, (len(queries), k), "int64")
        found, positions = self._search(queries, k, params)
        return returned(found, x, D), returned(self._labels(positions), x, I)

    def assign(self, x: object, k: int, labels: Array | None = None):
        """The labels of ``search``."""
        queries, k = matrix("x", x, self.d), require_int("k", k, 1)
        require_out("labels", labels, (len(queries), k), "int64")
        return self.search(x, k, I=labels)[1]

    def search_and_reconstruct(
        self,
        x: object,
        k: int,
        D: Array | None = None,
        I: Array | None = None,  # noqa: E741
        R: Array | None = None,
        *,
        params: SearchParameters | None = None,
    ) -> tuple:
        """As ``search``, and the vectors R (n, k, d) found; NaN where the label is negative."""
        queries, k = matrix("x", x, self.d), require_int("k", k, 1)
        require_out("R", R, (len(queries), k, self.d), "float32")
        self._positions(np.empty(0, dtype=np.int64))  # IndexIDMap cannot
        D, I = self.search(x, k, params=params, D=D, I=I)  # noqa: E741
        keys = torch.as_tensor(I).cpu().flatten()
        vectors = torch.full((len(keys), self.d), torch.nan)
        vectors[keys >= 0] = self._reconstructed(keys[keys >= 0].numpy())
        vectors = vectors.view(len(queries), k, self.d).to(queries.device)
        return D, I, returned(vectors, x, R)

    def range_search(
        self, x: object, thresh: float, *, params: SearchParameters | None = None
    ) -> tuple:
        """All scalar products above ``thresh``, or squared distances below it, strictly.

        Returns (lims, D, I): of query i those at ``lims[i]:lims[i + 1]``, in the order of addition.

        Time is O(n ntotal d), however many there are; memory beyond inputs is at most
        ``flashmatch.kernels.WORKSPACE_BYTES`` and a few times the result.
        """
        queries = matrix("x", x, self.d)
        lims, positions, found = self._flat._within(
            self._transformed(queries), _number("thresh", thresh), self._mask(params)
        )
        lims = returned(lims, x)
        lims = lims.view(np.uint64) if isinstance(lims, np.ndarray) else lims
        return lims, returned(found, x), returned(self._labels(positions), x)

    def remove_ids(self, x: object) -> int:
        """Remove the labels ``x``, an ``IDSelector`` or (m,) ints, and return how many rows went.

        Labels that are not there are ignored.
        """
        selector = x if isinstance(x, IDSelector) else IDSelectorBatch(int64("x", x))
        gone = selector.members(self._ids())
        if gone.any():
            self._remove(gone)
        return int(gone.sum())

    def reconstruct(self, key: int, x: Array | None = None):
        """The vector (d,) with label ``key``. RuntimeError if there is none."""
        require_out("x", x, (self.d,), "float32")
        keys = np.array([as_key("key", key)], dtype=np.int64)
        return returned(self._reconstructed(keys)[0], x, x)

    def reconstruct_n(self, n0: int = 0, ni: int = -1, x: Array | None = None):
        """The vectors (ni, d) with labels ``n0``, ``n0 + 1``, ...; as many as there are for -1."""
        n0, ni = require_int("n0", n0, INT64.min), require_int("ni", ni, -1)
        keys = np.arange(n0, n0 + ni if ni >= 0 else self.ntotal)
        require_out("x", x, (len(keys), self.d), "float32")
        return returned(self._reconstructed(keys, "n0 to n0 + ni - 1"), x, x)

    def reconstruct_batch(self, key: object, x: Array | None = None):
        """The vectors (m, d) with labels ``key`` (m,)."""
        keys = int64("key", key)
        require_out("x", x, (len(keys), self.d), "float32")
        return returned(self._reconstructed(keys), x, x)

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

    def _reconstructed(self, keys: np.ndarray, name: str = "key") -> Tensor:
        return self._flat._vectors(torch.from_numpy(self._positions(keys, name)))

    def _search(
        self, queries: Tensor, k: int, params: SearchParameters | None
    ) -> tuple[Tensor, Tensor]:
        """Distances and positions (n, k)."""
        mask = self._mask(params)
        k_here = min(k, self.ntotal)
        scores, positions = self._flat._nearest(self._transformed(queries), k_here, mask)
        return matches(scores, positions, k, self.metric_type)

    def _mask(self, params: SearchParameters | None) -> Tensor | None:
        selector = selected(params)
        return None if selector is None else torch.from_numpy(selector.members(self._ids()))


def require_index(index: object) -> None:
    if not isinstance(index, Index):
        raise TypeError(f"index must be an index of this module; got {type(index).__name__}")


def _number(name: str, value: object) -> float:
    try:
        return float(value)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        kind = ValueError if isinstance(value, str) else TypeError
        raise kind(f"{name} must be a number; got {value!r}") from None
