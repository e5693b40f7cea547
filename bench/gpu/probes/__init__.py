"""What `bench probe` runs in its own process, on a CUDA device or, to try it, on a CPU.

Each kind imports what it needs and no more: what is broken for one does not keep another from
running.
"""

from argparse import Namespace
from collections.abc import Callable

import torch

import gpu


def main(arguments: Namespace) -> int:
    """The exit status of one kind of probe; rows go to ``--results``."""
    device = torch.device(arguments.device)
    if device.type == "cuda" and (reason := gpu.no_device()):
        print(reason)
        return 0
    arguments.results = arguments.results or gpu.FOLDER / arguments.kind
    return _KINDS[arguments.kind](device, arguments)


def _search(device: torch.device, arguments: Namespace) -> int:
    import gpu_probe

    return gpu_probe.run(device, arguments.tiny)


def _facts(device: torch.device, arguments: Namespace) -> int:
    import gpu_facts
    import gpu_first

    code = gpu_facts.run(device, arguments.results)
    return gpu_first.run(device, arguments.results, arguments.tiny) or code


def _first_call(device: torch.device, arguments: Namespace) -> int:
    import gpu_first

    return gpu_first.child(device, arguments.tiny)


def _ceilings(device: torch.device, arguments: Namespace) -> int:
    import gpu_ceilings

    return gpu_ceilings.run(device, arguments.results, arguments.tiny)


def _stages(device: torch.device, arguments: Namespace) -> int:
    import gpu_stages

    return gpu_stages.run(device, arguments.results, arguments.tiny)


def _tiles(device: torch.device, arguments: Namespace) -> int:
    import gpu_tiles

    return gpu_tiles.run(device, arguments.results, arguments.tiny)


def _memory(device: torch.device, arguments: Namespace) -> int:
    import gpu_memory

    return gpu_memory.run(device, arguments.results, arguments.tiny)


def _peers(device: torch.device, arguments: Namespace) -> int:
    import gpu_peers

    return gpu_peers.run(device, arguments.results, arguments.minutes)


_KINDS: dict[str, Callable[[torch.device, Namespace], int]] = {
    "search": _search,
    "facts": _facts,
    "first-call": _first_call,
    "ceilings": _ceilings,
    "stages": _stages,
    "tiles": _tiles,
    "memory": _memory,
    "peers": _peers,
}
