"""The parts of `bench gpu`: what each runs, as a process of its own, and for how long at most."""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from measuring.links import ROOT

PROBES = ("search", "facts", "first-call", "ceilings", "stages", "tiles", "memory", "peers")
MISSING = "not checked: compute-sanitizer is not installed"
PEERS = "peers.json"  # provider to verdict, of the part of that name
_WRAP_UP = 0.85  # of a part's time: benchmarks begin no shape after it


@dataclass(frozen=True)
class Asked:
    """What a part's command is made from."""

    folder: Path  # of this part: its log and its rows
    minutes: float
    providers: Sequence[str] = ()


@dataclass(frozen=True)
class Part:
    name: str
    minutes: float  # it is stopped after these
    what: str
    command: Callable[[Asked], list[str]] | None  # for this Python; None: only reads the others
    tool: str = ""  # of compute-sanitizer, which runs this Python
    environment: dict[str, str] = field(default_factory=dict)
    fine: tuple[int, ...] = (0,)  # exit statuses that are no failure

    def arguments(self, asked: Asked, python: str) -> list[str]:
        """The whole command line; raises FileNotFoundError where the sanitizer is missing."""
        assert self.command is not None
        own = [python, *self.command(asked)]
        return [*sanitizer(self.tool), *own] if self.tool else own


def sanitizer(tool: str) -> list[str]:
    """compute-sanitizer for our kernels, and torch's of like names, in this process only."""
    program = shutil.which("compute-sanitizer") or _beside_cuda("compute-sanitizer")
    if program is None:
        raise FileNotFoundError(MISSING)
    options = ["--tool", tool, "--error-exitcode", "99", "--target-processes", "application-only"]
    return [program, *options, "--kernel-name", "kernel_substring=_kernel", "--print-limit", "30"]


def _beside_cuda(name: str) -> str | None:
    home = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"))
    return next((str(p) for p in (home / "bin" / name, home / name / name) if p.is_file()), None)


def survivors(folder: Path) -> list[str]:
    """Providers that did not end their process when alone; none where that was not tried."""
    path = folder / "peers" / PEERS
    verdicts = json.loads(path.read_text()) if path.is_file() else {}
    return [name for name, verdict in verdicts.items() if not verdict.startswith(("died", "hung"))]


def _probe(kind: str, *options: str) -> Callable[[Asked], list[str]]:
    def command(asked: Asked) -> list[str]:
        where = ["--results", str(asked.folder), "--minutes", f"{asked.minutes * _WRAP_UP:.2f}"]
        return [str(ROOT / "bench"), "probe", kind, *where, *options]

    return command


def _pytest(marker: str) -> Callable[[Asked], list[str]]:
    options = ["-v", "-rfE", "--tb=short", "--no-header", "-p", "no:cacheprovider"]
    options += ["-o", "faulthandler_timeout=120", "--durations=5"]
    return lambda _: ["-m", "pytest", str(ROOT / "tests" / "device"), "-m", marker, *options]


def _bench(chosen: str) -> Callable[[Asked], list[str]]:
    def command(asked: Asked) -> list[str]:
        from measuring import shapes  # and torch with them

        texts = [str(shape) for shape in shapes.GPU_SETS[chosen]]
        named = ["--providers", *asked.providers] if asked.providers else []
        where = ["--results", str(asked.folder), "--minutes", f"{asked.minutes * _WRAP_UP:.2f}"]
        run = [str(ROOT / "bench"), "run", "--device", "cuda"]
        return [*run, "--shapes", *texts, *named, *where]

    return command


_UNCACHED = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}  # else overruns stay inside torch's blocks
_SMALL, _TINY = _probe("search"), _probe("search", "--tiny")
PARTS = (
    Part("smoke", 3, "small searches by every kernel, against the oracle", _SMALL),
    Part("facts", 4, "the device, versions, peers; compiling cold and warm", _probe("facts")),
    Part("correctness", 9, "tests/device but for drawn problems", _pytest("not hypothesis")),
    Part("ceilings", 2, "the vendor's products, copy, launch", _probe("ceilings")),
    Part("stages", 4, "time by stage, the int8 product beside it", _probe("stages")),
    Part("tiles", 4, "the scan by every tile the chip may run", _probe("tiles")),
    Part("memory", 3, "peaks against WORKSPACE_BYTES", _probe("memory")),
    Part("peers", 5, "each peer once, alone: which run here", _probe("peers")),
    Part("bench-small", 4, "few queries or few prototypes", _bench("small")),
    Part("bench-k", 5, "k from 1 to 1,000", _bench("k")),
    Part("bench-channels", 6, "C from 64 to 1,536 in three dtypes", _bench("channels")),
    Part("bench-metrics", 5, "metrics and dtypes of two published shapes", _bench("metrics")),
    Part("bench-large", 9, "ten published shapes, the largest last", _bench("large")),
    Part("memcheck", 6, "memory accesses of small searches", _SMALL, "memcheck", _UNCACHED),
    Part("racecheck", 6, "shared memory hazards", _TINY, "racecheck"),
    Part("initcheck", 4, "reads of memory nobody wrote", _TINY, "initcheck", _UNCACHED),
    Part("drawn", 5, "tests/device, drawn problems", _pytest("hypothesis"), fine=(0, 5)),
    Part("bars", 0, "the bars, from the rows of the other parts", None),
    Part("table", 0, "everything found so far, in short", None),
)
BY_NAME = {part.name: part for part in PARTS}


def listing() -> str:
    """A line per part: name, most minutes, what."""
    return "\n".join(f"{p.name:<15} {p.minutes:>4g} min  {p.what}" for p in PARTS)
