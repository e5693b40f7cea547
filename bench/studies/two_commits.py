"""This checkout beside another commit: the same data, a process for each, asked in turns.

The two processes are there at once, and one of them works at a time. Times faster is what the
commit takes over what the checkout takes: above 1 where the checkout needs less time.
"""

import io
import subprocess
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from measuring import ledger
from measuring.links import ROOT, link
from measuring.ratios import ratio
from measuring.shapes import Shape
from measuring.table import line, markdown, number
from measuring.timing import Timing, interleave, quartiles_of, within
from providers.ours import OURS

from .commit_process import CommitProcess

HEAD = ("shape", "search", "base: ms", "here: ms", "times faster", "results")
EQUAL, DIFFER = "equal", "differ"


@dataclass(frozen=True)
class Comparison:
    """One search of one shape by both commits; milliseconds, and none where one failed."""

    search: str
    shape: str
    base_ms: float | None
    base_p25: float | None
    base_p75: float | None
    here_ms: float | None
    here_p25: float | None
    here_p75: float | None
    times_faster: float | None
    times_low: float | None  # by the quartiles
    times_high: float | None
    repeats: int
    results: str  # EQUAL to the last bit, DIFFER, or what failed
    device: str
    torch: str
    triton: str
    base: str  # commit
    here: str
    date: str

    def cells(self) -> tuple[str, ...]:
        """A line of the table."""
        if self.times_faster is None:
            return (self.shape, self.search, "", "", "", self.results)
        return (
            self.shape,
            self.search,
            f"{number(self.base_ms)} ({number(self.base_p25)} to {number(self.base_p75)})",
            f"{number(self.here_ms)} ({number(self.here_p25)} to {number(self.here_p75)})",
            f"{self.times_faster:.2f} ({self.times_low:.2f} to {self.times_high:.2f})",
            self.results,
        )


@dataclass(frozen=True)
class Asked:
    """What is measured, and how long."""

    shapes: Sequence[Shape]
    searches: Sequence[str]  # parts of the names; none: all of ours
    device: torch.device
    budget: float  # seconds of timed calls of either commit, for a shape and search
    least: int  # timed samples
    minutes: float  # no shape is begun after these


def run(base: str, asked: Asked, results: Path | None) -> int:
    """Print the table line by line; 1 where results differ or a search failed."""
    with TemporaryDirectory(prefix="flashmatch-") as folder:
        commit = extract(base, Path(folder, "base"))
        trees = link(Path(folder, "base"), Path(folder, "links")), link(ROOT, Path(folder, "here"))
        with (
            CommitProcess(commit, trees[0], asked.device) as there,
            CommitProcess("here", trees[1], asked.device) as here,
        ):
            rows = compare_all(commit, there, here, asked)
    if rows and results:
        ledger.append(rows, results, "base")
    return 0 if all(row.results == EQUAL for row in rows) else 1


def extract(base: str, folder: Path) -> str:
    """Unpack the tree of a commit; its short name. Raises ValueError where there is none."""
    named = _git("rev-parse", "--verify", "--short=12", f"{base}^{{commit}}")
    tree = _git("archive", "--format=zip", base)
    if named.returncode or tree.returncode:
        raise ValueError(f"--base must be a commit of this repository; got {base!r}")
    zipfile.ZipFile(io.BytesIO(tree.stdout)).extractall(folder)
    return named.stdout.decode().strip()


def _git(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True)


def compare_all(
    commit: str, base: CommitProcess, here: CommitProcess, asked: Asked
) -> list[Comparison]:
    """A line of the table for each shape and search, printed as soon as it is known."""
    names = [p.name for p in OURS if any(part in p.name for part in asked.searches or ("",))]
    print(f"base: {commit}, here: {ledger.commit()}; {ledger.device_name(asked.device)}\n")
    print(markdown(HEAD, ()), flush=True)
    rows = []
    for shape in within(asked.minutes, asked.shapes):
        for name in names:
            rows.append(compare(shape, name, commit, base, here, asked))
            print(line(rows[-1].cells()), flush=True)
    return rows


def compare(
    shape: Shape, search: str, commit: str, base: CommitProcess, here: CommitProcess, asked: Asked
) -> Comparison:
    """Prepare in both, compare what they find, then time them in turns."""
    timings: dict[str, Timing] = {}
    try:
        prepared = base.prepare(shape, search), here.prepare(shape, search)
        results = EQUAL if prepared[0][1] == prepared[1][1] else DIFFER
        slower = max(seconds for seconds, _ in prepared)
        clocks = {"base": base.seconds, "here": here.seconds}
        estimates = dict.fromkeys(clocks, slower)
        timings, failures = interleave(clocks, estimates, asked.budget, asked.least)
        for failure in failures.values():
            raise failure
    except RuntimeError as error:
        timings, results = {}, ledger.described(error)
    times = ratio(timings["base"], timings["here"]) if timings else None
    return Comparison(
        search=search,
        shape=str(shape),
        **quartiles_of("base", timings.get("base")),
        **quartiles_of("here", timings.get("here")),
        times_faster=times and times.median,
        times_low=times and times.low,
        times_high=times and times.high,
        repeats=timings["here"].repeats if timings else 0,
        results=results,
        device=ledger.device_name(asked.device),
        torch=torch.__version__,
        triton=ledger.version_of("triton"),
        base=commit,
        here=ledger.commit(),
        date=ledger.now(),
    )
