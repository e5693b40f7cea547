"""What `bench probe` runs in its own process, on a CUDA device or, to try it, on a CPU."""

from argparse import Namespace

import torch

import gpu
import gpu_ceilings
import gpu_facts
import gpu_first
import gpu_memory
import gpu_peers
import gpu_probe
import gpu_stages


def run(kind: str, device: torch.device, arguments: Namespace) -> int:
    """The exit status of one kind of probe; rows go to ``--results``."""
    folder, tiny = arguments.results or gpu.FOLDER / kind, arguments.tiny
    if kind == "search":
        return gpu_probe.run(device, tiny)
    if kind == "first-call":
        return gpu_first.child(device, tiny)
    if kind == "facts":
        code = gpu_facts.run(device, folder)
        return gpu_first.run(device, folder, tiny) or code
    if kind == "peers":
        return gpu_peers.run(device, folder, arguments.minutes)
    body = {"ceilings": gpu_ceilings, "stages": gpu_stages, "memory": gpu_memory}[kind]
    return body.run(device, folder, tiny)
