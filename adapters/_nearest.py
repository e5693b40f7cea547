"""The k nearest rows, ordered by the very distances that are returned.

A bank orders by scores rounded to fp32, which are equal for many distances that fp64 tells apart:
1 - cos = 1e-9 and 2e-9, for instance. So it is asked for a few rows more than k, these are ordered
by distances evaluated in fp64 from the vectors, and what was left out is excluded by a bound. A
query whose bound does not exclude is searched again, for four times as many.

Squares of distances beyond the range of fp32, or below it, are all one score to a bank. Rows of
such a size are searched in a unit of their own, a power of two, by which they divide exactly.
"""

import math

import torch
from torch import Tensor

from flashmatch.kernels import PrototypeBank
from flashmatch.kernels._fit_threads import in_fit_thread

SPARE = 8
"""Rows beyond k that are asked for at first: about 1 us of rescoring each."""

_COSINE_EPS = 1e-8  # the contract's, of torch.cosine_similarity: shorter norms count as this
_SAMPLE = 256  # rows that tell in which units to search
_PAIR_ELEMENTS = 1 << 18  # gathered at a time: 2 MiB in fp64 of either side, in cache
_FOUND_ELEMENTS = 1 << 22  # candidates at a time: 32 MiB of indices


class NearestRows:
    """Rows prepared for exact search by distance.

    Args:
        rows: (M, C) float32 or float64 tensor on the device that searches; referred to, not copied,
            and to be left unchanged.
        distance: ``"euclidean"``, ``"sqeuclidean"`` or ``"cosine"`` (1 - cos, in 0..2).

    Raises:
        ValueError: rows that are not finite, or whose norm is beyond fp64.
    """

    def __init__(self, rows: Tensor, distance: str, *, unit: float | None = None) -> None:
        """``unit``: a power of two; None = one that suits the rows."""
        self._given, self._distance = rows, distance
        if unit is None:
            unit = 1.0 if distance == "cosine" else _unit_of(rows)
        scaled = _divided(rows, unit)
        self._unit, self._rows = (1.0, rows) if scaled is None else (unit, scaled)
        metric = "cosine" if distance == "cosine" else "l2"
        self._bank = PrototypeBank(self._rows, metric=metric, progress=False)
        self._in_units_of_one: NearestRows | None = None  # made if queries need it

    def search(self, queries: Tensor, k: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Distances (Q, k) in ``dtype`` and indices (Q, k) int64: the nearest, and in order.

        Args:
            queries: (Q, C) float32 or float64, on the rows' device.
            k: 1 <= k <= M.
            dtype: of the distances, which are evaluated in fp64 and rounded once. Their order is
                distance ascending, then index ascending.

        Time is O(Q M C). Where more than k + ``SPARE`` rows tie for the k-th place, a query costs
        several searches, the last one for all that tie.
        """
        return in_fit_thread([queries, self._rows], self._search, queries, k, dtype)

    def _search(self, queries: Tensor, k: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        scaled = _divided(queries, self._unit)
        if scaled is None:  # of another size than the rows
            if self._in_units_of_one is None:
                self._in_units_of_one = NearestRows(self._given, self._distance, unit=1.0)
            return self._in_units_of_one._search(queries, k, dtype)
        queries = scaled
        distances = queries.new_empty(len(queries), k, dtype=dtype)
        indices = queries.new_empty(len(queries), k, dtype=torch.int64)
        pending, width = torch.arange(len(queries), device=queries.device), k + SPARE
        while len(pending):
            width = min(width, len(self._rows))
            unproven = []
            for part in pending.split(max(1, _FOUND_ELEMENTS // width)):
                found = self._among(queries[part], k, width, dtype)
                distances[part], indices[part], proven = found
                unproven.append(part[~proven])
            pending, width = torch.cat(unproven), 4 * width
        return distances, indices

    def _among(
        self, queries: Tensor, k: int, width: int, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The k nearest of the ``width`` best by score, and whether no other row can be one (Q,).

        A row left out scores at most the last score L, rounded: less than the next fp32 above. The
        one after that leaves room for what fp64 evaluations are off, except around a cosine of 0,
        where fp32 is finer than fp64 is around a distance of 1; ``slack`` is for those. k zeros
        need no proof: rows equal to the query tie in score as well, and come by index.
        """
        scores, candidates = self._bank.topk(queries, width)
        candidates = candidates.sort(dim=1).values
        in_units = self._evaluated(queries, candidates)
        unit = self._unit**2 if self._distance == "sqeuclidean" else self._unit
        distances, order = (in_units * unit).to(dtype).sort(dim=1, stable=True)
        kth, best = distances[:, k - 1], order[:, :k]
        above = scores[:, -1]
        for _ in range(2):
            above = above.nextafter(above.new_tensor(torch.inf))
        slack = 1 - self._rows.shape[1] * 2.0**-50
        left_out = (self._of_scores(above.double()) * slack * unit).to(dtype)
        are_zero = in_units.gather(1, best).amax(1) == 0
        proven = (left_out > kth) | are_zero | (width == len(self._rows))
        return distances[:, :k], candidates.gather(1, best), proven

    def _of_scores(self, scores: Tensor) -> Tensor:
        if self._distance == "cosine":
            return 1 - scores
        squares = scores.neg().clamp(min=0)
        return squares if self._distance == "sqeuclidean" else squares.sqrt()

    def _evaluated(self, queries: Tensor, candidates: Tensor) -> Tensor:
        """fp64 distances (Q, width), in units, to the rows that ``candidates`` (Q, width) names."""
        flat = candidates.flatten()
        owners = torch.arange(len(flat), device=flat.device) // candidates.shape[1]
        out = torch.empty(len(flat), dtype=torch.float64, device=flat.device)
        step = max(1, _PAIR_ELEMENTS // queries.shape[1])
        for part in (slice(start, start + step) for start in range(0, len(flat), step)):
            q, p = queries[owners[part]].double(), self._rows[flat[part]].double()
            out[part] = _cosine_distance(q, p) if self._distance == "cosine" else _squares(q, p)
        return (out.sqrt() if self._distance == "euclidean" else out).view_as(candidates)


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


def _squares(q: Tensor, p: Tensor) -> Tensor:
    return (q - p).square().sum(dim=1)


def _cosine_distance(q: Tensor, p: Tensor) -> Tensor:
    """1 - cos of the pairs (n, C) fp64, without cancellation where cos is near 1.

    For unit vectors 1 - cos = |q - p|^2 / 2, which is 0 for equal vectors, where the subtraction
    would leave 1e-16. For norms below 1e-8, and for distant vectors, the subtraction is right.
    """
    q_norms, p_norms = (torch.linalg.vector_norm(v, dim=1, keepdim=True) for v in (q, p))
    q, p = q / q_norms.clamp(min=_COSINE_EPS), p / p_norms.clamp(min=_COSINE_EPS)
    cosines = (q * p).sum(dim=1)
    unit = torch.minimum(q_norms, p_norms)[:, 0] >= _COSINE_EPS
    return torch.where(unit & (cosines > 0.5), _squares(q, p) / 2, 1 - cosines).clamp(0, 2)
