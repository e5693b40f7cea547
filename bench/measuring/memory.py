"""The memory of this process as Linux and torch count it; without /proc, nobody counts."""

import ctypes
import gc
import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import torch

from .timing import synchronize

MIB = 2**20
SAMPLE_SECONDS = 0.01


def available_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def peak_mib(call: Callable[[], object], device: torch.device) -> float | None:
    """Memory that one call adds at its worst, results included; None where nobody counts it.

    On CUDA only what torch allocates is seen.
    """
    gc.collect()
    if device.type == "cuda":
        synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / MIB
    if not reset_resident_peak():
        call()
        return None
    before = resident_kib("VmRSS")
    call()
    return max(0, resident_kib("VmHWM") - before) / 1024


def resident_kib(*fields: str) -> int:
    """The sum of the named fields of /proc/self/status."""
    status = Path("/proc/self/status").read_text()
    lines = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return sum(int(lines[field].split()[0]) for field in fields)


def reset_resident_peak() -> bool:
    """Have Linux forget the process's peak, after returning freed pages that would hide growth."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        return False
    return True


class PrivatePeak:
    """The most private memory while the block ran, above what there was when it began.

    Private is RssAnon + RssShmem: what the process has written and nothing else can give back.
    Resident (VmHWM) counts the pages of mapped files as well. Those are the page cache's own,
    which the kernel drops as soon as anyone needs the room, so that reading a mapped file from
    end to end shows as its whole size in VmHWM and costs nobody anything. Linux keeps no high
    mark of private memory alone; a thread looks at it every 10 ms.
    """

    def __init__(self) -> None:
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "PrivatePeak":
        reset_resident_peak()
        self._before, self._resident = _private_kib(), resident_kib("VmRSS")
        self._most = self._before
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()
        self._look()
        self.private_mib = (self._most - self._before) / 1024
        self.resident_mib = (resident_kib("VmHWM") - self._resident) / 1024

    def _watch(self) -> None:
        while not self._done.wait(SAMPLE_SECONDS):
            self._look()

    def _look(self) -> None:
        self._most = max(self._most, _private_kib())


def _private_kib() -> int:
    return resident_kib("RssAnon", "RssShmem")
