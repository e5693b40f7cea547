"""Which chips the kernels run on: those that the compile matrix stands for."""

import os
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from ..contract import arguments
from .tiles import HIP, RDNA

_DRIVERS = Path("/proc/driver/nvidia/version"), Path("/sys/module/amdgpu/version")

_AMD = {"gfx942": HIP, "gfx1100": RDNA, "gfx1101": RDNA, "gfx1102": RDNA}


@dataclass(frozen=True)
class Chip:
    """What plans and launches ask of a chip."""

    arch: int
    """As the tiles name it."""
    multiprocessors: int


def why_not(device: torch.device) -> str:
    """Why the kernels do not run there; nothing where they do.

    They want int8 tensor cores, and the instructions that they were compiled for.
    """
    if device.type == "cuda":
        fits = _amd_name(device) in _AMD if torch.version.hip else arch(device) >= 80
        if fits:
            return ""
    return "the Triton kernels are for sm_80 or later, gfx942 and gfx1100"


@cache
def chip(device: torch.device) -> Chip:
    """Without a device, as interpreted, an H100 of two multiprocessors, so that programs loop."""
    if device.type != "cuda":
        return Chip(90, multiprocessors=2)
    return Chip(arch(device), torch.cuda.get_device_properties(device).multi_processor_count)


def arch(device: torch.device) -> int:
    """As the tiles name it."""
    if torch.version.hip:
        return _AMD.get(_amd_name(device), HIP)
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def name(device: torch.device) -> str:
    """As its maker calls it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def identity(device: torch.device) -> dict[str, str]:
    """Which card it is, and what drives it, as far as anybody tells."""
    uuid = ""
    if device.type == "cuda":
        uuid = str(getattr(torch.cuda.get_device_properties(device), "uuid", ""))
    return {"device": name(device), "uuid": uuid, "driver": _driver(device)}


def _driver(device: torch.device) -> str:
    if device.type != "cuda":
        return ""
    for path in _DRIVERS:
        with suppress(OSError):
            return path.read_text().partition("\n")[0].strip()
    asked = getattr(torch._C, "_cuda_getDriverVersion", None)  # the CUDA that it can do
    return str(asked()) if asked else ""


def runnable(device: torch.device | str | int | None) -> torch.device:
    """The device asked for, None being the current one, with its index.

    With TRITON_INTERPRET=1 it may be the CPU. Raises ValueError where the kernels do not run.
    """
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if device is None:
        found = torch.device("cpu" if interpreted or not torch.cuda.is_available() else "cuda")
    else:
        found = arguments.require_device("device", device)
    if found.type == "cuda" and torch.cuda.is_available():
        found = torch.device("cuda", torch.cuda.current_device()) if found.index is None else found
        runs = found.index < torch.cuda.device_count() and not why_not(found)
    else:
        runs = found.type == "cpu" and interpreted
    if not runs:
        raise ValueError(
            "device must be one that the Triton backend runs on: CUDA of capability 8.0 or more, "
            f"gfx942 or gfx11, or the CPU under TRITON_INTERPRET=1; got {device!r} ({found})"
        )
    return found


def _amd_name(device: torch.device) -> str:
    """gfx942 of "gfx942:sramecc+:xnack-"."""
    return torch.cuda.get_device_properties(device).gcnArchName.split(":")[0]
