"""IndexFlat: vectors numbered in sequence, kept and searched by a PrototypeBank."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...kernels import Matches, PrototypeBank, RangeMatches
from ...kernels.concurrency.succession import Succession
from ...kernels.contract.arguments import require_device, require_int
from ...kernels.contract.matches import no_range
from .contents import Contents
from .index import Index
from .metrics import METRIC_INNER_PRODUCT, METRIC_L2, distances, metric_name
from .tensors import matrix
from .vectors import Vector


class IndexFlat(Index):
    """All vectors as they are, numbered 0, 1, 2, ...; removing closes the gaps.

    Args:
        d: channels.
        metric: ``METRIC_L2`` or ``METRIC_INNER_PRODUCT``.
        device: where vectors lie and searches run; None = the CPU. (FAISS has other classes.)

    Vectors are copied when added. They are prepared for search, at about a byte per coordinate
    besides, when a search needs it. A vector with NaN or inf is kept but never found, and such a
    query finds nothing. Threads may search at once; what is interrupted changes nothing.
    """

    __slots__ = ("_device", "_states")

    def __init__(
        self, d: int, metric: int = METRIC_L2, *, device: torch.device | str | None = None
    ) -> None:
        metric_name(metric)
        super().__init__(require_int("d", d, 1), int(metric))
        self._device = require_device("device", "cpu" if device is None else device)
        self._states = Succession(Contents())

    def __getstate__(self) -> dict[str, Any]:
        return {
            "base": (self.d, self.metric_type, self.metric_arg, self.verbose, self._device),
            "contents": self._states.newest,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.d, self.metric_type, self.metric_arg, self.verbose, self._device = state["base"]
        self._states = Succession(state["contents"])

    @property
    def ntotal(self) -> int:
        return self._states.newest.count

    @property
    def device(self) -> torch.device:
        """Where vectors lie and searches run."""
        return self._device

    @property
    def code_size(self) -> int:
        """Bytes of a vector."""
        return 4 * self.d

    @property
    def codes(self) -> Vector:
        """(ntotal * code_size,) uint8: the bytes of all vectors, a copy."""
        return self.get_xb().view(np.uint8).view(Vector)

    def add(self, x: object) -> None:
        """Append vectors (n, d); they are numbered on."""
        self._append(matrix("x", x, self.d, copy=True))

    def add_with_ids(self, x: object, ids: object) -> None:
        """As in FAISS: only an ``IndexIDMap`` has ids."""
        raise RuntimeError("add_with_ids needs an index with ids: IndexIDMap(index)")

    def reset(self) -> None:
        self._states.change(lambda _: (Contents(), None))

    def get_xb(self) -> np.ndarray:
        """(ntotal * d,): all vectors, a copy where FAISS has a pointer."""
        return self._vectors().cpu().numpy().ravel()

    def merge_from(self, otherIndex: IndexFlat, add_id: int = 0) -> None:
        """Move all vectors of an index of the same type behind the own ones."""
        if add_id != 0:
            raise RuntimeError(f"add_id must be 0 for an index without ids; got {add_id}")
        self.check_compatible_for_merge(otherIndex)
        self._append(otherIndex._vectors())
        otherIndex.reset()

    def check_compatible_for_merge(self, otherIndex: Index) -> None:
        """RuntimeError unless ``otherIndex`` is another index of this type, ``d`` and metric."""
        alike = type(otherIndex) is type(self) and otherIndex is not self
        if not alike or (otherIndex.d, otherIndex.metric_type) != (self.d, self.metric_type):
            raise RuntimeError(
                f"otherIndex must be another {type(self).__name__} with d = {self.d} and metric "
                f"{self.metric_type}; got {otherIndex!r}"
            )

    def __repr__(self) -> str:
        return f"{type(self).__name__}(d={self.d}, metric={self.metric_type}, ntotal={self.ntotal})"

    @property
    def _flat(self) -> IndexFlat:
        return self

    def _ids(self) -> np.ndarray:
        return np.arange(self.ntotal)

    def _labels(self, positions: Tensor) -> Tensor:
        return positions

    def _positions(self, keys: np.ndarray, name: str = "key") -> np.ndarray:
        absent = keys[(keys < 0) | (keys >= self.ntotal)]
        if len(absent):
            raise RuntimeError(f"{name} must be below ntotal = {self.ntotal}; got {absent[0]}")
        return keys

    def _contents(self) -> Contents:
        return self._states.newest

    def _moved(self, device: torch.device) -> IndexFlat:
        twin = copy.copy(self)
        if device != self.device:
            twin._device = device
            twin._states = Succession(self._states.newest.on(device))
        return twin

    @property
    def _has_ids(self) -> bool:
        return False

    def _remove(self, gone: np.ndarray, ids: np.ndarray | None = None) -> None:
        """``ids`` (m,): of those that are left, where they have any."""
        self._states.change(lambda contents: (self._prepare(contents)[0].without(gone, ids), None))

    def _append(self, vectors: Tensor, ids: np.ndarray | None = None) -> None:
        vectors = vectors.to(self.device)
        self._states.change(lambda contents: (contents.with_added(vectors, ids), None))

    def _prepared(self) -> PrototypeBank:
        """The bank of all vectors."""
        bank = self._prepared_contents().bank
        assert bank is not None
        return bank

    def _prepared_contents(self) -> Contents:
        contents = self._states.newest
        return contents if contents.is_prepared else self._states.change(self._prepare)

    def _prepare(self, contents: Contents) -> tuple[Contents, Contents]:
        """Twice: the next contents, and what ``change`` returns."""
        prepared = contents.prepared(self.d, metric_name(self.metric_type), self.device)
        return prepared, prepared

    def _vectors(self, positions: Tensor | None = None) -> Tensor:
        """A copy (m, d) float32 of the vectors at ``positions`` (m,), or of all; on the CPU."""
        return self._prepared().vectors(positions).float()

    def _nearest(self, queries: Tensor, k: int, mask: Tensor | None) -> Matches:
        mask = None if mask is None else mask.to(queries.device)
        return self._prepared().topk(queries, k, mask=mask)

    def _within(self, queries: Tensor, radius: float, mask: Tensor | None) -> RangeMatches:
        """All strictly within, in the order of addition, with distances for scores."""
        sign, bank = (1 if self.metric_type == METRIC_INNER_PRODUCT else -1), self._prepared()
        limit = sign * torch.tensor(radius, dtype=torch.float32)
        if not limit < torch.inf:  # no score is above inf, or NaN
            return no_range(queries)
        least = limit.nextafter(torch.tensor(torch.inf))
        mask = None if mask is None else mask.to(queries.device)
        found = bank.within(queries, least, mask=mask, sort=False)
        return found._replace(scores=distances(found.scores, self.metric_type))


class IndexFlatIP(IndexFlat):
    """By scalar product, largest first."""

    __slots__ = ()

    def __init__(self, d: int, *, device: torch.device | str | None = None) -> None:
        super().__init__(d, METRIC_INNER_PRODUCT, device=device)


class IndexFlatL2(IndexFlat):
    """By squared Euclidean distance, smallest first."""

    __slots__ = ()

    def __init__(self, d: int, *, device: torch.device | str | None = None) -> None:
        super().__init__(d, METRIC_L2, device=device)
