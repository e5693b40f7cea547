"""Which chips the kernels run on: those that the compile matrix stands for."""

from dataclasses import dataclass
from functools import cache

import torch

from .tiles import HIP, RDNA

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


def _amd_name(device: torch.device) -> str:
    """gfx942 of "gfx942:sramecc+:xnack-"."""
    return torch.cuda.get_device_properties(device).gcnArchName.split(":")[0]
