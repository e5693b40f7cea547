"""The ledger: CSVs per device, one row per measurement, appended and never rewritten.

``<device>.csv`` has the benchmark's rows, one per provider and shape; what else is measured has a
file of its own beside it, ``<device>-<kind>.csv``.
"""

import csv
import os
import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timezone
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import torch

from flashmatch.kernels.machine import cpu_name

from .instructions import limited_to
from .links import ROOT
from .shapes import Shape

RESULTS = ROOT / "bench" / "results"
LIMIT = "limit: finds nothing"  # the status of a row that is no search


@dataclass(frozen=True)
class Row:
    provider: str
    version: str
    Q: int
    M: int
    C: int
    k: int
    metric: str
    dtype: str
    median_ms: float | None
    p25: float | None
    p75: float | None
    repeats: int
    peak_mib: float | None
    agreement: float | None  # share of (query, rank) places with the oracle's index
    checked: int  # queries the agreement is over
    limit_ms: float | None
    over_limit: float | None
    device: str
    torch: str
    triton: str
    commit: str
    date: str
    status: str  # "ok", LIMIT, "skipped: why" or "error: what"

    @property
    def shape(self) -> Shape:
        return Shape(self.Q, self.M, self.C, self.k, self.metric, self.dtype)


class Measured(Protocol):
    """A dataclass of plain values, one of which names the device."""

    __dataclass_fields__: ClassVar[dict]

    @property
    def device(self) -> str: ...


Kind = TypeVar("Kind", bound=Measured)


def append(rows: Sequence[Measured], folder: Path = RESULTS, kind: str = "") -> Path:
    """Add rows of one type to the file of their device and kind.

    A file keeps the columns that it began with. Raises ValueError, having written nothing, where
    rows have another.
    """
    path = path_of(rows[0].device, folder, kind)
    folder.mkdir(parents=True, exist_ok=True)
    names = [field.name for field in fields(rows[0])]
    header = _header(path)
    lines = [{k: _cell(k, v) for k, v in asdict(row).items()} for row in rows]
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, header or names, lineterminator="\n")
        if not header:
            writer.writeheader()
        writer.writerows(lines)
    return path


def _header(path: Path) -> list[str]:
    """The columns of a file; none if there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return next(csv.reader(file), [])


def read(path: Path, kind: type[Kind] = Row) -> list[Kind]:
    """The rows of a file, with the digits that were written.

    Columns that rows no longer have are passed over.
    """
    with path.open(newline="") as file:
        return [
            kind(**{f.name: _value(f.type, line[f.name]) for f in fields(kind)})
            for line in csv.DictReader(file)
        ]


def by_shape(rows: Iterable[Row]) -> dict[Shape, dict[str, Row]]:
    """The last row of each provider, shape by shape."""
    found: dict[Shape, dict[str, Row]] = {}
    for row in rows:
        found.setdefault(row.shape, {})[row.provider] = row
    return found


def described(error: BaseException) -> str:
    """One line of a few words, for a cell of a table."""
    return f"error: {type(error).__name__}: {' '.join(str(error).split())[:120]}"


def path_of(device: str, folder: Path = RESULTS, kind: str = "") -> Path:
    stem = re.sub(r"[^a-z0-9]+", "-", f"{device} {kind}".lower()).strip("-")
    return folder / f"{stem}.csv"


def _cell(name: str, value: object) -> object:
    if name == "agreement" and isinstance(value, float):
        return exact_share(value)
    return f"{value:.4g}" if isinstance(value, float) else value


def _value(kind: object, cell: str) -> Any:
    if kind is str:
        return cell
    if kind is int:
        return int(cell)
    return float(cell) if cell else None


def exact_share(share: float) -> str:
    """Six digits, where 1 means every single one."""
    return "1" if share == 1 else f"{min(share, 0.999999):.6f}"


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    limit = limited_to()
    kept = f", limited to {limit.upper()}" if limit else ""
    return f"{cpu_name()} ({torch.get_num_threads()} threads){kept}"


def version_of(*distributions: str) -> str:
    """The version of the first that is installed."""
    for name in distributions:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "unknown"


def origin(device: torch.device) -> dict[str, Any]:
    """What every row says of where it comes from."""
    return {
        "device": device_name(device),
        "torch": torch.__version__,
        "commit": commit(),
        "date": now(),
    }


@cache
def commit() -> str:
    """$FLASHMATCH_COMMIT, or else HEAD, with a plus where tracked files differ from it."""
    if given := os.environ.get("FLASHMATCH_COMMIT"):
        return given

    def git(*args: str) -> str:
        run = subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True, check=True)
        return run.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ":!bench/results")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%MZ")
