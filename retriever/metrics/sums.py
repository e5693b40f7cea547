"""Means over queries that come in batches, and in several processes: sums and counts, no more."""

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ..processes import world_size

Sums = TypeVar("Sums", bound="MetricSums")


class MetricSums:
    """Named sums, on the device of what was added last; the same memory after any batch.

    Args:
        names: what is summed.
        settings: what must agree for the sums of two of these to be of the same thing.
    """

    def __init__(self, names: Iterable[str], settings: object) -> None:
        self._names = tuple(names)
        self._settings = settings
        self.reset()

    def reset(self) -> None:
        """Forget all queries."""
        self._sums: Tensor | None = None

    def merge(self: Sums, other: Sums) -> Sums:
        """Take in what ``other`` has seen, and return self; ``other`` stays as it is.

        Raises:
            ValueError: it is of another class, or made with other arguments.
        """
        if type(other) is not type(self) or other._settings != self._settings:
            raise ValueError(
                f"other must be a {type(self).__name__} of the same arguments, {self._settings}; "
                f"got a {type(other).__name__}, {getattr(other, '_settings', None)}"
            )
        if other._sums is not None:
            self._join(other._sums)
        return self

    def _add(self, values: Mapping[str, Tensor]) -> None:
        """Sum each of ``values``, (Q,), over the queries; waits for no device."""
        self._join(torch.stack([values[name].sum(dtype=torch.float64) for name in self._names]))

    def _join(self, sums: Tensor) -> None:
        """Out of place, so that batches in and out of inference mode go together."""
        self._sums = sums if self._sums is None else self._sums.to(sums.device) + sums

    def _totals(self, sync: bool, group: Any) -> dict[str, float]:
        """The sums, of all processes of ``group`` if ``sync``; own sums stay as they are."""
        sums = torch.zeros(len(self._names)).double() if self._sums is None else self._sums
        if sync and world_size() > 1:
            device = "cuda" if dist.get_backend(group) == "nccl" else "cpu"
            sums = sums.to(device, copy=True)
            dist.all_reduce(sums, group=group)
        return dict(zip(self._names, sums.tolist(), strict=True))
