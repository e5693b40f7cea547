"""What the searches of a bank took, counted by whichever thread searches."""

import threading
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..contract.matches import Found


@dataclass(frozen=True)
class BankStats:
    """What the searches of a bank took so far."""

    queries: int = 0
    certified: int = 0
    """Queries whose first screen was proof enough."""
    repaired: int = 0
    """Queries for which it left too much, so that a wider search was needed; on CUDA counted once
    for each run of pages that needed it."""
    rows_rescored: int = 0
    """Pairs evaluated in fp64 after an int8 screen; not counted on CUDA."""
    bytes_screened: int = 0
    """Bytes of codes read, or of vectors where the screen is ``"float"``."""
    product: str = ""
    """What multiplies codes where torch does: ``"int_mm"`` (on a CPU by VNNI) or ``"fbgemm"``;
    nothing where there are none."""


class Counts:
    """Counts that lose nothing where threads, or streams of a device, add at once."""

    def __init__(self, device: torch.device, sums: BankStats | None = None) -> None:
        self._device = device
        self._sums = {0: sums or BankStats()}  # by thread: each changes its own
        # Unread until somebody asks, so that nothing waits for the device.
        self._repaired = torch.zeros(1, dtype=torch.int64, device=device)
        self._first = torch.zeros(1, dtype=torch.int64, device=device)

    def add(self, queries: int, found: Found) -> None:
        """Of so many queries."""
        repaired = found.repaired
        if isinstance(repaired, Tensor):
            # Atomic on CUDA, where ``+=`` of two streams could lose one of them.
            self._repaired.index_add_(0, self._first, repaired.long().reshape(1))
            repaired = 0
        thread = threading.get_ident()
        more = BankStats(queries, 0, repaired, found.rescored, found.screened)
        self._sums[thread] = _sum(self._sums.get(thread, BankStats()), more)

    def read(self, product: str = "") -> BankStats:
        """Waits for the device. ``product``: of the codes that were searched."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        sums = BankStats()
        for of_thread in list(self._sums.values()):
            sums = _sum(sums, of_thread)
        repaired = sums.repaired + int(self._repaired)
        certified = max(0, sums.queries - repaired)
        return replace(sums, repaired=repaired, certified=certified, product=product)

    def __reduce__(self) -> tuple[object, ...]:
        return Counts, (self._device, self.read())


def _sum(a: BankStats, b: BankStats) -> BankStats:
    """Of what is counted."""
    return BankStats(
        queries=a.queries + b.queries,
        repaired=a.repaired + b.repaired,
        rows_rescored=a.rows_rescored + b.rows_rescored,
        bytes_screened=a.bytes_screened + b.bytes_screened,
    )
