"""Rows, and distances to them in fp64.

Squares of distances beyond the range of fp64, or below it, cannot be told apart, nor can those of
fp32 where a search computes with it. Rows of such a size are measured in a unit of their own, a
power of two, by which they divide exactly.
"""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..kernels.contract.metrics import COSINE_EPS

if TYPE_CHECKING:
    from typing_extensions import Self

_SAMPLE = 256  # rows that tell in which units to measure
_PAIR_ELEMENTS = 1 << 18  # gathered at a time: 2 MiB in fp64 of either side, in cache


class MeasuredRows:
    """Rows to measure distances to.

    Args:
        rows: (M, C) float32 or float64 tensor on the device that searches; referred to, not copied,
            and to be left unchanged.
        distance: ``"euclidean"``, ``"sqeuclidean"`` or ``"cosine"`` (1 - cos, in 0..2).

    Raises:
        ValueError: rows, or queries, whose norm is beyond fp64; they are called ``X``.
    """

    def __init__(self, rows: Tensor, distance: str, *, unit: float | None = None) -> None:
        """``unit``: a power of two; None = one that suits the rows."""
        self._given, self.distance = rows, distance
        if unit is None:
            unit = 1.0 if distance == "cosine" else _unit_of(rows)
        scaled = _divided(rows, unit)
        self.unit, self.rows = (1.0, rows) if scaled is None else (unit, scaled)
        _require_norms(self.rows)
        self._in_units_of_one: Self | None = None  # made if queries need it

    @property
    def device(self) -> torch.device:
        """Where the rows lie, and queries must."""
        return self.rows.device

    def in_units_of(self, queries: Tensor) -> tuple["Self", Tensor]:
        """These rows in units that suit the queries (Q, C) as well, and the queries in them."""
        scaled, suited = _divided(queries, self.unit), self
        if scaled is None:
            if self._in_units_of_one is None:
                self._in_units_of_one = type(self)(self._given, self.distance, unit=1.0)
            scaled, suited = queries, self._in_units_of_one
        _require_norms(scaled)
        return suited, scaled

    def to_pairs(self, queries: Tensor, owners: Tensor, indices: Tensor) -> Tensor:
        """fp64 distances (n,), in units, of the pairs (queries[owners[i]], rows[indices[i]]).

        A pair has the same distance whatever else is asked for. So no pair is measured alone: torch
        shares a sum among threads where it has no other to compute.
        """
        out = torch.empty(len(owners), dtype=torch.float64, device=owners.device)
        measure = _cosine_distance if self.distance == "cosine" else _squares
        step = max(2, _PAIR_ELEMENTS // queries.shape[1])
        for start in range(0, len(owners), step):
            left, right = owners[start : start + step], indices[start : start + step]
            if len(left) == 1:
                left, right = left.expand(2), right.expand(2)
            pairs = measure(queries[left].double(), self.rows[right].double())
            out[start : start + step] = pairs[: len(owners) - start]
        return out.sqrt_() if self.distance == "euclidean" else out

    def rounded(self, in_units: Tensor, dtype: torch.dtype) -> Tensor:
        """Distances as they are returned: not smaller where they are not smaller in units."""
        distances = in_units * self.unit
        if self.distance == "sqeuclidean":
            distances = distances * self.unit  # one by one: their product may be beyond fp64
        return distances.to(dtype)


def _unit_of(rows: Tensor) -> float:
    """A power of two that some rows' largest coordinates are near, or 1 where they are near it."""
    largest = rows[:: max(1, len(rows) // _SAMPLE)].abs().amax(1).double()
    largest = largest[largest.isfinite() & (largest > 0)]
    if len(largest) == 0 or 2.0**-40 <= (typical := float(largest.median())) <= 2.0**40:
        return 1.0
    return 2.0 ** max(-1000, min(math.frexp(typical)[1], 1000))


def _divided(vectors: Tensor, unit: float) -> Tensor | None:
    """The vectors in units, in their own dtype or in fp64: exactly and not too long, or None."""
    if unit == 1.0:
        return vectors
    divided = vectors.double() / unit
    if not torch.equal(divided * unit, vectors.double()) or bool((divided.abs() > 2.0**400).any()):
        return None
    narrow = divided.to(vectors.dtype)
    return narrow if torch.equal(narrow.double(), divided) else divided


def _require_norms(vectors: Tensor) -> None:
    low, high = vectors.aminmax()
    if max(-low.item(), high.item()) < 2.0**400:  # of any length that memory can hold
        return
    beyond = ~torch.linalg.vector_norm(vectors, dim=1, dtype=torch.float64).isfinite()
    if beyond.any():
        row = int(beyond.nonzero()[0])
        raise ValueError(
            "X must be finite, with squares that add up to what float64 can hold; "
            f"got NaN, inf or a norm beyond fp64 in row {row}"
        )


def _squares(q: Tensor, p: Tensor) -> Tensor:
    return (q - p).square().sum(dim=1)


def _cosine_distance(q: Tensor, p: Tensor) -> Tensor:
    """1 - cos of the pairs (n, C) fp64, without cancellation where cos is near 1.

    For unit vectors 1 - cos = |q - p|^2 / 2, which is 0 for equal vectors, where the subtraction
    would leave 1e-16. For norms below 1e-8, and for distant vectors, the subtraction is right.
    """
    q_norms, p_norms = (torch.linalg.vector_norm(v, dim=1, keepdim=True) for v in (q, p))
    q, p = q / q_norms.clamp(min=COSINE_EPS), p / p_norms.clamp(min=COSINE_EPS)
    cosines = (q * p).sum(dim=1)
    unit = torch.minimum(q_norms, p_norms)[:, 0] >= COSINE_EPS
    return torch.where(unit & (cosines > 0.5), _squares(q, p) / 2, 1 - cosines).clamp(0, 2)
