"""The k nearest rows, or all within a limit, by the very distances that are returned.

A bank orders by scores rounded to fp32, which are equal for many distances that fp64 tells apart:
1 - cos = 1e-9 and 2e-9, for instance. So it is asked for a few rows more than k, these are ordered
by distances evaluated in fp64 from the vectors, and what was left out is excluded by a bound. A
query whose bound does not exclude is searched again, for four times as many. So are all within a
limit: some of the nearest first, and more until the bound of what was left out is beyond it.

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

_FIRST_WIDTH = 64
"""Rows that a search for all within a limit asks for at first."""

_LAST_SHARE = 16
"""A search that would ask for more than a ``_LAST_SHARE``th of the rows looks at all of them."""

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
        ValueError: rows, or queries, whose norm is beyond fp64; they are called ``X``.
    """

    def __init__(self, rows: Tensor, distance: str, *, unit: float | None = None) -> None:
        """``unit``: a power of two; None = one that suits the rows."""
        self._given, self._distance = rows, distance
        if unit is None:
            unit = 1.0 if distance == "cosine" else _unit_of(rows)
        scaled = _divided(rows, unit)
        self._unit, self._rows = (1.0, rows) if scaled is None else (unit, scaled)
        _require_norms(self._rows)
        metric = "cosine" if distance == "cosine" else "l2"
        self._bank = PrototypeBank(self._rows, metric=metric, progress=False)
        self._in_units_of_one: NearestRows | None = None  # made if queries need it

    @property
    def device(self) -> torch.device:
        """Where the rows lie, and queries must."""
        return self._rows.device

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
        fit, queries = self._of_their_size(queries)
        return in_fit_thread([queries, self._rows], fit._search, queries, k, dtype)

    def within(self, queries: Tensor, limits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """All rows at most as far as a limit: those whose distance, as ``search`` has it, is <= it.

        Args:
            queries: (Q, C) float32 or float64, on the rows' device.
            limits: (Q,), each query's, not NaN; on the rows' device. Distances have their dtype.

        Returns:
            For the m pairs found, by query, then by index: queries (m,) int64, distances (m,),
            indices (m,) int64.

        Time is O(Q M C) and grows with m: a query is searched several times, the last time for at
        most four times as many rows as it has, or for all. Memory beyond the result is bounded but
        for some multiple of M.
        """
        fit, queries = self._of_their_size(queries)
        return in_fit_thread([queries, self._rows], fit._within, queries, limits)

    def _of_their_size(self, queries: Tensor) -> tuple["NearestRows", Tensor]:
        """These rows, in units that suit the queries as well; and the queries in these units."""
        scaled, fit = _divided(queries, self._unit), self
        if scaled is None:
            if self._in_units_of_one is None:
                self._in_units_of_one = NearestRows(self._given, self._distance, unit=1.0)
            scaled, fit = queries, self._in_units_of_one
        _require_norms(scaled)
        return fit, scaled

    def _search(self, queries: Tensor, k: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
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

    def _within(self, queries: Tensor, limits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pending, width = torch.arange(len(queries), device=queries.device), _FIRST_WIDTH
        found = []
        while len(pending):
            width = width if width * _LAST_SHARE < len(self._rows) else len(self._rows)
            unproven = []
            for part in pending.split(max(1, _FOUND_ELEMENTS // width)):
                candidates, left_out = self._candidates(queries[part], width, limits.dtype)
                in_units = self._evaluated(queries[part], candidates)
                distances = self._rounded(in_units, limits.dtype)
                proven = (left_out > limits[part]) | (width == len(self._rows))
                inside = (distances <= limits[part, None]) & proven[:, None]
                row, place = inside.nonzero(as_tuple=True)
                found.append((part[row], distances[row, place], candidates[row, place]))
                unproven.append(part[~proven])
            pending, width = torch.cat(unproven), 4 * width
        owners, distances, indices = (torch.cat(parts) for parts in zip(*found, strict=True))
        order = owners.argsort(stable=True)
        return owners[order], distances[order], indices[order]

    def _among(
        self, queries: Tensor, k: int, width: int, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The k nearest of the ``width`` best by score, and whether no other row can be one (Q,).

        k zeros need no proof: rows equal to the query tie in score as well, and come by index.
        """
        candidates, left_out = self._candidates(queries, width, dtype)
        in_units = self._evaluated(queries, candidates)
        distances, order = self._rounded(in_units, dtype).sort(dim=1, stable=True)
        kth, best = distances[:, k - 1], order[:, :k]
        are_zero = in_units.gather(1, best).amax(1) == 0
        proven = (left_out > kth) | are_zero | (width == len(self._rows))
        return distances[:, :k], candidates.gather(1, best), proven

    def _candidates(self, queries: Tensor, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The ``width`` best by score (Q, width), by index, and a bound (Q,) in ``dtype``: no row
        left out is nearer, as distances are evaluated here.

        A row left out scores at most the last score L, rounded: less than the next fp32 above. The
        one after that leaves room for what fp64 evaluations are off, except around a cosine of 0,
        where fp32 is finer than fp64 is around a distance of 1; ``slack`` is for those.
        """
        if width == len(self._rows):
            everything = torch.arange(width, device=queries.device).expand(len(queries), width)
            return everything, queries.new_full((len(queries),), torch.inf, dtype=dtype)
        scores, candidates = self._bank.topk(queries, width)
        above = scores[:, -1]
        for _ in range(2):
            above = above.nextafter(above.new_tensor(torch.inf))
        slack = 1 - self._rows.shape[1] * 2.0**-50
        left_out = self._rounded(self._of_scores(above.double()) * slack, dtype)
        return candidates.sort(dim=1).values, left_out

    def _rounded(self, in_units: Tensor, dtype: torch.dtype) -> Tensor:
        """Distances as they are returned: not smaller where they are not smaller in units."""
        distances = in_units * self._unit
        if self._distance == "sqeuclidean":
            distances = distances * self._unit  # one by one: their product may be beyond fp64
        return distances.to(dtype)

    def _of_scores(self, scores: Tensor) -> Tensor:
        if self._distance == "cosine":
            return 1 - scores
        squares = scores.neg().clamp(min=0)
        return squares if self._distance == "sqeuclidean" else squares.sqrt()

    def _evaluated(self, queries: Tensor, candidates: Tensor) -> Tensor:
        """fp64 distances (Q, width), in units, to the rows that ``candidates`` (Q, width) names.

        A pair has the same distance whatever else is asked for. So no pair is evaluated alone:
        torch shares a sum among threads where it has no other to compute.
        """
        flat = candidates.flatten()
        owners = torch.arange(len(flat), device=flat.device) // candidates.shape[1]
        out = torch.empty(len(flat), dtype=torch.float64, device=flat.device)
        step = max(1, _PAIR_ELEMENTS // queries.shape[1])
        for start in range(0, len(flat), step):
            which, rows = owners[start : start + step], flat[start : start + step]
            if len(rows) == 1:
                which, rows = which.expand(2), rows.expand(2)
            q, p = queries[which].double(), self._rows[rows].double()
            pairs = _cosine_distance(q, p) if self._distance == "cosine" else _squares(q, p)
            out[start : start + step] = pairs[: len(flat) - start]
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


def _require_norms(vectors: Tensor) -> None:
    low, high = vectors.aminmax()
    if max(-low.item(), high.item()) < 2.0**400:  # of any length that memory can hold
        return
    beyond = ~torch.linalg.vector_norm(vectors, dim=1, dtype=torch.float64).isfinite()
    if beyond.any():
        row = int(beyond.nonzero()[0])
        raise ValueError(
            "X must have rows whose squares add up to a number that float64 can hold; "
            f"got one beyond it in row {row}"
        )


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
