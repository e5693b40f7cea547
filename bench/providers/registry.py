"""Every provider there is, and which of them a run asks for."""

from collections.abc import Sequence

import torch

from limits import LIMITS
from peers_cpu import CPU_PEERS
from peers_gpu import GPU_PEERS
from providers import OURS, TORCH, Provider

PROVIDERS = (*OURS, *TORCH, *CPU_PEERS, *GPU_PEERS, *LIMITS)


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
