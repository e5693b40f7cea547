"""What `bench probe` runs in its own process, on a CUDA device or, to try it, on a CPU.

Each kind is a module, imported when asked for: what is broken for one does not keep another from
running. A probe begins nothing once ``--minutes`` are over, and prints what it did not begin.
"""

import time
from argparse import Namespace
from importlib import import_module

import torch

from ..run_parts import FOLDER, no_device


def main(given: Namespace, begun: float) -> int:
    """The exit status of one kind of probe; rows go to ``--results``.

    The minutes are counted from ``begun``, of time.monotonic(): importing is part of them.
    """
    device = torch.device(given.device)
    if device.type == "cuda" and (reason := no_device()):
        print(reason)
        return 0
    folder = given.results or FOLDER / given.kind
    probe = import_module(f".{given.kind.replace('-', '_')}", __name__)
    minutes = given.minutes - (time.monotonic() - begun) / 60
    match given.kind:
        case "search":
            return probe.run(device, minutes, given.tiny, given.first)
        case "facts":
            return probe.run(device, folder)
        case "selfcheck":  # one piece of work
            return probe.run(device, folder, given.tiny)
        case _:
            return probe.run(device, folder, minutes, given.tiny)
