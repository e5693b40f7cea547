"""Every provider there is, and which of them a run asks for."""

from collections.abc import Sequence

import torch

from .cpu_peers import CPU_PEERS
from .gpu_peers import GPU_PEERS
from .limits import CPU_LIMITS, GPU_LIMITS
from .ours import OURS
from .provider import Provider
from .torch_peers import TORCH_PEERS

PROVIDERS = (*OURS, *TORCH_PEERS, *CPU_PEERS, *GPU_PEERS, *GPU_LIMITS, *CPU_LIMITS)


def select(device: torch.device, names: Sequence[str] = ()) -> list[Provider]:
    """The importable ones for the device whose name contains one of ``names``, or all of them."""
    return [
        provider
        for provider in PROVIDERS
        if device.type in provider.devices
        and provider.available
        and (not names or any(name in provider.name for name in names))
    ]


def absent(device: torch.device) -> list[str]:
    return [p.name for p in PROVIDERS if device.type in p.devices and not p.available]
