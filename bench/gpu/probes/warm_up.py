"""Compile what slice A launches, on every processor, before anything that is timed waits for it.

What a kernel's compilation takes is a figure; nothing is compiled a second time to learn that.
"""

import os
import time
from pathlib import Path

import torch

from measuring.timing import OVER

from ..figures import figure, write

PART = "warm-up"
ALL, COUNT = "compiling, all", "kernels compiled"
REHEARSED_ARCH = 90  # of a machine without a device


def run(device: torch.device, folder: Path, minutes: float, tiny: bool = False) -> int:
    """1 if a kernel does not compile; the searches say later what that costs."""
    from ..compile_ahead import compile_all, jobs

    begun = time.monotonic()
    arch, failed, seconds = _arch(device), 0, []
    wanted = jobs(arch, quick=tiny)
    for done in compile_all(wanted, arch, os.cpu_count() or 1, begun + 60 * minutes):
        seconds.append(done.seconds)
        failed += done.status != "ok"
        value = 1e3 * done.seconds
        write([figure(device, PART, "compiling", done.name, value, "ms", done.status)], folder)
    wall = time.monotonic() - begun
    write(
        [
            figure(device, PART, COUNT, "", len(seconds), f"of {len(wanted)}"),
            figure(device, PART, ALL, "one after the other", sum(seconds), "s"),
            figure(device, PART, ALL, "as it was", wall, "s"),
        ],
        folder,
    )
    if len(seconds) < len(wanted):
        print(f"{minutes:.3g} {OVER}{len(wanted) - len(seconds)} kernels, compiled when launched")
    return 1 if failed else 0


def _arch(device: torch.device) -> int:
    if device.type != "cuda":
        return REHEARSED_ARCH
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor
