"""What a process waits for at its first searches: Triton compiling, or finding what it compiled.

Two processes one after the other share a Triton cache that begins empty: the first compiles, the
second finds everything. Each says how long every compilation and every first search took.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from measuring.links import ROOT
from measuring.shapes import Shape, make
from measuring.timing import seconds_of

from ..figures import Figure, figure, write

PART = "facts"
MARK = "first calls: "
SHAPES = (Shape(1024, 65536, 128), Shape(8, 65536, 128))
TINY = (Shape(20, 700, 64, 3), Shape(2, 700, 64, 3))


def run(device: torch.device, folder: Path, tiny: bool = False) -> int:
    """Two processes, cold and warm, and their figures."""
    figures, code = [], 0
    with tempfile.TemporaryDirectory() as cache:
        for state in ("cold", "warm"):
            command = [sys.executable, str(ROOT / "bench"), "probe", "first-call"]
            command += ["--device", device.type, *(["--tiny"] if tiny else [])]
            env = {**os.environ, "TRITON_CACHE_DIR": cache}
            done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True)
            lines = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
            if done.returncode or not lines:
                print(done.stdout)
                print(f"first calls, {state}: the process failed ({done.returncode})")
                code = 1
                continue
            figures += _figures(json.loads(lines[-1][len(MARK) :]), state, device)
    write(figures, folder)
    return code


def child(device: torch.device, tiny: bool = False) -> int:
    """One process: print the seconds of each compilation and of each search's first two calls."""
    compiled: dict[str, float] = {}
    _listen(compiled)
    searches = {}
    for shape in TINY if tiny else SHAPES:
        queries, prototypes = make(shape, device)
        for body, search in _searches(queries, prototypes, shape.k).items():
            name = f"{body} {shape}"
            searches[name] = [seconds_of(search, device) for _ in range(2)]
    print(MARK + json.dumps({"compiled": compiled, "searches": searches}))
    return 0


def _searches(queries, prototypes, k: int) -> dict[str, Callable[[], object]]:
    import flashmatch

    def bank() -> object:
        return flashmatch.PrototypeBank(prototypes).topk(queries, k)

    return {"topk": lambda: flashmatch.topk(queries, prototypes, k), "bank, built": bank}


def _listen(compiled: dict[str, float]) -> None:
    """Have Triton add the seconds of each compilation, by kernel; those it finds count too."""
    from triton import knobs

    def listener(*, metadata, times, cache_hit: bool, **_: object) -> None:
        name, spent = metadata["name"], times.total / 1e6
        compiled[name] = compiled.get(name, 0.0) + spent
        print(f"{name}: {spent:.2f} s{' (found)' if cache_hit else ''}", file=sys.stderr)

    knobs.compilation.listener = listener


def _figures(found: dict, state: str, device: torch.device) -> list[Figure]:
    made = [
        figure(device, PART, f"compiling, {state}", name, 1e3 * seconds, "ms")
        for name, seconds in sorted(found["compiled"].items())
    ]
    total = 1e3 * sum(found["compiled"].values())
    made.append(figure(device, PART, f"compiling, {state}", "all kernels", total, "ms"))
    for name, (first, second) in found["searches"].items():
        made.append(figure(device, PART, f"first call, {state}", name, 1e3 * first, "ms"))
        made.append(figure(device, PART, f"second call, {state}", name, 1e3 * second, "ms"))
    return made
