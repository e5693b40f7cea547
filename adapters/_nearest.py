"""The k nearest rows, ordered by the very distances that are returned.

A bank orders by scores rounded to fp32, which are equal for many distances that fp64 tells apart:
1 - cos = 1e-9 and 2e-9, for instance. So it is asked for a few rows more than k, these are ordered
by distances evaluated in fp64 from the vectors, and what was left out is excluded by a bound. A
query whose bound does not exclude is searched again, for four times as many.
"""

import torch
from torch import Tensor

from ..kernels import PrototypeBank
from ..kernels.concurrency.fit_thread import in_fit_thread
from ._measured import MeasuredRows

SPARE = 8
"""Rows beyond k that are asked for at first: about 1 us of rescoring each."""

_FOUND_ELEMENTS = 1 << 22  # candidates at a time: 32 MiB of indices


class NearestRows(MeasuredRows):
    """Rows prepared for exact search by distance."""

    def __init__(self, rows: Tensor, distance: str, *, unit: float | None = None) -> None:
        super().__init__(rows, distance, unit=unit)
        metric = "cosine" if distance == "cosine" else "l2"
        self._bank = PrototypeBank(self.rows, metric=metric, progress=False)

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
        suited, queries = self.in_units_of(queries)
        return in_fit_thread([queries, self.rows], suited._search, queries, k, dtype)

    def _search(self, queries: Tensor, k: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        distances = queries.new_empty(len(queries), k, dtype=dtype)
        indices = queries.new_empty(len(queries), k, dtype=torch.int64)
        pending, width = torch.arange(len(queries), device=queries.device), k + SPARE
        while len(pending):
            width = min(width, len(self.rows))
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
        owners = torch.arange(candidates.numel(), device=queries.device) // width
        in_units = self.to_pairs(queries, owners, candidates.flatten()).view_as(candidates)
        distances, order = self.rounded(in_units, dtype).sort(dim=1, stable=True)
        kth, best = distances[:, k - 1], order[:, :k]
        above = scores[:, -1]
        for _ in range(2):
            above = above.nextafter(above.new_tensor(torch.inf))
        slack = 1 - self.rows.shape[1] * 2.0**-50
        left_out = self.rounded(self._of_scores(above.double()) * slack, dtype)
        are_zero = in_units.gather(1, best).amax(1) == 0
        proven = (left_out > kth) | are_zero | (width == len(self.rows))
        return distances[:, :k], candidates.gather(1, best), proven

    def _of_scores(self, scores: Tensor) -> Tensor:
        if self.distance == "cosine":
            return 1 - scores
        squares = scores.neg().clamp(min=0)
        return squares if self.distance == "sqeuclidean" else squares.sqrt()
