"""The parts of `bench gpu`: what each runs, as a process of its own, in which slice, for how long.

A slice is what is worth having from a machine that is lent for ten minutes. The minutes of its
parts are shares of its own: what one part leaves over goes to those after it.
"""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from measuring.links import ROOT

if TYPE_CHECKING:
    from measuring.shapes import Shape

PROBES = (
    "warm-up", "selfcheck", "facts", "ceilings", "stages",
    "peers", "search", "tiles", "memory",
)  # fmt: skip
SLICES = {
    "A": "compiled kernels, checked; the device's ceilings, and the time of a search by stage",
    "B": "searches beside every peer that is there, what is wanted most first",
    "C": "correctness in full, tiles, memory, sanitizers",
}
MINUTES = 9.0  # of a slice
MISSING = "not checked: compute-sanitizer is not installed"
PEERS = "peers.json"  # provider to verdict, of the part of that name
WRAP_UP = 0.15  # of a part's time, or LEAST_WRAP_UP: nothing is begun in it
LEAST_WRAP_UP = 0.05  # minutes: under a load, Python may need as long to end
REHEARSED_SEARCHES = 6
WORKERS = 8  # of pytest, where xdist is installed


@dataclass(frozen=True)
class Asked:
    """What a part's command is made from."""

    folder: Path  # of this part: its log and its rows
    minutes: float
    providers: Sequence[str] = ()
    rehearsed: bool = False  # on a CPU, the smallest there is


@dataclass(frozen=True)
class Part:
    name: str
    minutes: float  # its share of its slice's
    what: str
    command: Callable[[Asked], list[str]] | None  # for this Python; None: only reads the others
    slice: str = ""
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
        smallest = ["--device", "cpu", "--tiny"] if asked.rehearsed else []
        if asked.rehearsed and kind == "search":  # three sanitizers watch the same, interpreted
            smallest += ["--first", str(REHEARSED_SEARCHES)]
        own = [option for option in options if option not in smallest]
        return [str(ROOT / "bench"), "probe", kind, *_where(asked), *own, *smallest]

    return command


def _where(asked: Asked) -> list[str]:
    minutes = asked.minutes - max(LEAST_WRAP_UP, WRAP_UP * asked.minutes)
    return ["--results", str(asked.folder), "--minutes", f"{minutes:.3f}"]


def _pytest(*chosen: str, alone: bool = False) -> Callable[[Asked], list[str]]:
    """Tests of tests/device, side by side where xdist is there, unless they have to be alone."""
    options = ["-v", "-rfE", "--tb=short", "--no-header", "-p", "no:cacheprovider"]
    options += ["-o", "faulthandler_timeout=120", "--durations=5"]

    def command(asked: Asked) -> list[str]:
        serial = alone or asked.rehearsed or not find_spec("xdist")
        parallel = [] if serial else ["-n", str(WORKERS)]
        return ["-m", "pytest", *chosen, *options, *parallel]

    return command


def _bench(chosen: str) -> Callable[[Asked], list[str]]:
    def command(asked: Asked) -> list[str]:
        from measuring import shapes  # and torch with them

        wanted = shapes.GPU_SETS[chosen]
        if asked.rehearsed:
            wanted = dict.fromkeys(map(_tiny, wanted[:1]))
        named = ["--providers", *asked.providers] if asked.providers else []
        run = [str(ROOT / "bench"), "run", "--device", "cpu" if asked.rehearsed else "cuda"]
        return [*run, "--shapes", *map(str, wanted), *named, *_where(asked)]

    return command


def _tiny(shape: "Shape") -> "Shape":
    sizes = {"Q": 8, "M": 500, "C": 32, "k": 3}
    return replace(shape, **{name: min(getattr(shape, name), most) for name, most in sizes.items()})


_COMPILED = {"TRITON_INTERPRET": "0"}  # in a rehearsal, too
_UNCACHED = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}  # else overruns stay inside torch's blocks
_SMALL, _TINY = _probe("search"), _probe("search", "--tiny")
_DEVICE = ROOT / "tests" / "device"
_LINES = _pytest(str(_DEVICE / "test_device_torch.py"))
# What times streams against one another, and what takes most of the memory.
_ALONE = [str(_DEVICE / f"test_device_{name}.py") for name in ("streams", "large")]
_TESTS = _pytest(str(_DEVICE), "-m", "not hypothesis", *(f"--ignore={path}" for path in _ALONE))
_DRAWN = _pytest(str(_DEVICE), "-m", "hypothesis", *(f"--ignore={path}" for path in _ALONE))
PARTS = (
    Part("lines", 0.75, "the torch backend's lines that only CUDA reaches", _LINES, "A"),
    Part("warm-up", 2.5, "compiling, on every processor", _probe("warm-up"), "A", "", _COMPILED),
    Part("selfcheck", 0.5, "every kernel against the oracle", _probe("selfcheck"), "A"),
    Part("facts", 0.5, "the device, versions, peers", _probe("facts"), "A"),
    Part("ceilings", 1.5, "the vendor's products, copy, launch", _probe("ceilings"), "A"),
    Part("stages", 3.25, "time by stage, the int8 product beside it", _probe("stages"), "A"),
    Part("peers", 1, "each peer once, alone: which run here", _probe("peers"), "B"),
    Part("bench-wanted", 3.5, "the shapes that are asked for first", _bench("wanted"), "B"),
    Part("bench-small", 0.75, "few queries or few prototypes", _bench("small"), "B"),
    Part("bench-k", 1, "k from 1 to 1,000", _bench("k"), "B"),
    Part("bench-channels", 1, "C from 64 to 1,536 in three dtypes", _bench("channels"), "B"),
    Part("bench-metrics", 0.75, "metrics and dtypes of two of them", _bench("metrics"), "B"),
    Part("bench-large", 1, "seconds a search, the largest last", _bench("large"), "B"),
    Part("correctness", 2.5, "tests/device but for drawn problems", _TESTS, "C"),
    Part("alone", 0.5, "streams, and 2^31 elements", _pytest(*_ALONE, alone=True), "C"),
    Part("tiles", 1.5, "the scan by every tile the chip may run", _probe("tiles"), "C"),
    Part("memory", 0.75, "peaks against WORKSPACE_BYTES", _probe("memory"), "C"),
    Part("memcheck", 1.25, "memory accesses", _SMALL, "C", "memcheck", _UNCACHED),
    Part("bars", 0, "the bars, from the rows of the other parts", None, "C"),
    Part("initcheck", 0.75, "reads of memory nobody wrote", _TINY, "C", "initcheck", _UNCACHED),
    Part("drawn", 0.75, "tests/device, drawn problems", _DRAWN, "C", fine=(0, 5)),
    # May raise false alarms where kernels use wgmma or TMA.
    Part("racecheck", 1, "shared memory hazards", _TINY, "C", "racecheck"),
    Part("table", 0, "everything found so far, in short", None),
)
BY_NAME = {part.name: part for part in PARTS}


def listing() -> str:
    """A line per part: name, slice, its minutes of the slice's, what."""
    return "\n".join(f"{p.name:<15} {p.slice:<2} {p.minutes:>4g} min  {p.what}" for p in PARTS)
