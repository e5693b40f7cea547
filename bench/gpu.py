"""What `make gpu` does on a CUDA machine: correctness, then memcheck, then the benchmark.

Needs only torch, triton, numpy and pytest, and no network. Each part is a process of its own that
stays under ten minutes: a crash in one still lets the others speak.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch

from links import ROOT, link

PARTS = ("correctness", "memcheck", "bench")
MINUTES = 8.0


def no_device() -> str | None:
    """Why there is nothing to run on, or None."""
    if torch.cuda.is_available():
        return None
    return "no CUDA device: nothing was run, nothing is measured"


def run_parts(parts: list[str], bench_arguments: list[str]) -> int:
    """Run each part, report each, and fail if any failed."""
    codes = {part: _PARTS[part](bench_arguments) for part in parts}
    for part, code in codes.items():
        print(f"{part}: {'ok' if code == 0 else f'failed ({code})'}")
    return max(codes.values())


def _correctness(_: list[str]) -> int:
    """Every plan against the oracle on the device."""
    tests = ROOT / "tests" / "device"
    if not tests.is_dir():
        print("tests/device is missing: correctness on the device was not checked")
        return 1
    return _python("-m", "pytest", str(tests), "-q")


def _memcheck(_: list[str]) -> int:
    sanitizer = shutil.which("compute-sanitizer") or _beside_cuda("compute-sanitizer")
    if sanitizer is None:
        print("compute-sanitizer is not installed: memory accesses were not checked")
        return 0
    tool = [sanitizer, "--tool", "memcheck", "--error-exitcode", "99"]
    # torch's allocator hides overruns inside its blocks; one allocation per tensor shows them
    return _python(str(ROOT / "bench"), "probe", tool=tool, PYTORCH_NO_CUDA_MEMORY_CACHING="1")


def _bench(arguments: list[str]) -> int:
    return _python(str(ROOT / "bench"), "run", "--device", "cuda", *arguments)


_PARTS = {"correctness": _correctness, "memcheck": _memcheck, "bench": _bench}


def probe() -> int:
    """Small searches of awkward shapes, each compared with the oracle; what memcheck watches."""
    import flashmatch
    from gate import agreement, truth
    from shapes import Shape, make

    device = torch.device("cuda")
    wrong = 0
    for sizes in ((1, 33, 1, 5), (3, 1009, 67, 7), (67, 4099, 129, 31), (130, 2048, 256, 10)):
        for metric in ("cosine", "dot", "l2"):
            for dtype in ("float32", "bfloat16"):
                shape = Shape(*sizes, metric=metric, dtype=dtype)
                queries, prototypes = make(shape, device)
                right = truth(queries, prototypes, shape.k, metric)
                found = flashmatch.topk(queries, prototypes, shape.k, metric=metric)
                share = agreement(right, found.indices)
                wrong += share < 1
                print(f"{shape}: agreement {share:.6f}", flush=True)
    return 1 if wrong else 0


def _python(*arguments: str, tool: list[str] | None = None, **environment: str) -> int:
    """This interpreter again, with flashmatch importable even where it is not installed."""
    path = os.pathsep.join(filter(None, [str(link()), os.environ.get("PYTHONPATH")]))
    env = {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": path, **environment}
    command = [*(tool or []), sys.executable, *arguments]
    print("$", *command, flush=True)
    return subprocess.run(command, cwd=ROOT, env=env).returncode


def _beside_cuda(name: str) -> str | None:
    home = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"))
    return next((str(p) for p in (home / "bin" / name, home / name / name) if p.is_file()), None)
