"""What the searches of a bank took, counted by whichever thread searches."""

import threading
from dataclasses import dataclass

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
        self._sums = {0: _listed(sums or BankStats())}  # by thread: each changes its own
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
        own = self._sums.get(threading.get_ident())
        if own is None:
            own = self._sums[threading.get_ident()] = [0, 0, 0, 0]
        own[0] += queries
        own[1] += repaired
        own[2] += found.rescored
        own[3] += found.screened

    def read(self, product: str = "") -> BankStats:
        """Waits for the device. ``product``: of the codes that were searched."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        of_threads = zip(*list(self._sums.values()), strict=True)
        queries, repaired, rescored, screened = map(sum, of_threads)
        repaired += int(self._repaired)
        certified = max(0, queries - repaired)
        return BankStats(queries, certified, repaired, rescored, screened, product)

    def __reduce__(self) -> tuple[object, ...]:
        return Counts, (self._device, self.read())


def _listed(sums: BankStats) -> list[int]:
    """Of what is counted."""
    return [sums.queries, sums.repaired, sums.rows_rescored, sums.bytes_screened]
