"""What `bench probe` runs in its own process, on a CUDA device or, to try it, on a CPU.

Each kind is a module, imported when asked for: what is broken for one does not keep another from
running.
"""

from argparse import Namespace
from importlib import import_module

import torch

from ..run_parts import FOLDER, no_device


def main(given: Namespace) -> int:
    """The exit status of one kind of probe; rows go to ``--results``."""
    device = torch.device(given.device)
    if device.type == "cuda" and (reason := no_device()):
        print(reason)
        return 0
    folder = given.results or FOLDER / given.kind
    match given.kind:
        case "search":
            return _module("search").run(device, given.tiny)
        case "facts":
            _module("facts").run(device, folder)
            return _module("first_calls").run(device, folder, given.tiny)
        case "first-call":
            return _module("first_calls").child(device, given.tiny)
        case "peers":
            return _module("peers").run(device, folder, given.minutes)
        case kind:
            return _module(kind).run(device, folder, given.tiny)


def _module(name: str):
    return import_module(f".{name}", __name__)
