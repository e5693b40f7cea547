"""Build a bank from a file of prototypes that is larger than what the bank may hold.

The file is written here, in pieces; the bank is built in a fresh process, whose memory is nobody
else's. What has to hold: private memory at its peak, above what there was just before the build,
stays below the codes and ``ROOM_MIB``.

The file was written a moment before and lies in the page cache, as far as that has room: the time
is that of building, not of a cold disk.
"""

import json
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

import flashmatch
from measuring import ledger
from measuring.links import ROOT
from measuring.memory import MIB, PrivatePeak

SEED = 20261122
ROOM_MIB = 512
QUERIES, NEIGHBOURS = 16, 10
PIECE = 65536  # rows written at a time


@dataclass(frozen=True)
class Build:
    rows: int
    channels: int
    file_mib: float
    build_s: float
    codes_mib: float  # bank.nbytes
    private_mib: float  # at its peak, above the baseline
    resident_mib: float  # with the pages of the file that the kernel had not yet dropped
    search_ms: float  # the first one
    agreement: float  # share of the planted neighbours found, each at its rank
    held: str
    device: str
    torch: str
    commit: str
    date: str


def run(rows: int, channels: int, folder: Path | None, results: Path | None) -> int:
    """Write, build elsewhere, report; append a row to the ledger where ``results`` is given."""
    with ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="flashmatch-")))
        path = write(folder, rows, channels)
        stack.callback(lambda: (path.unlink(), _beside(path).unlink()))
        build = measure(path)
    print(json.dumps(asdict(build), indent=2))
    if results:
        ledger.append([build], results, "build")
    print(build.held)
    return 0 if build.held == "held" and build.agreement == 1 else 1


def write(folder: Path, rows: int, channels: int) -> Path:
    """Gaussian prototypes with ``NEIGHBOURS`` planted for each query, which lie in a file beside.

    The j-th neighbour is its query plus j + 1 tenths of a vector of the same length at a right
    angle: its cosine is 1 / sqrt(1 + ((j + 1) / 10)^2), at least 0.707, far above any other's.
    """
    path = folder / "prototypes.safetensors"
    generator = np.random.default_rng(SEED)
    size = 4 * rows * channels
    entry = {"dtype": "F32", "shape": [rows, channels], "data_offsets": [0, size]}
    header = json.dumps({"prototypes": entry}).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)
    data = np.memmap(path, "<f4", "r+", 8 + len(header), (rows, channels))
    for start in range(0, rows, PIECE):
        piece = data[start : start + PIECE]
        piece[:] = generator.standard_normal(piece.shape, dtype=np.float32)
    queries, neighbours = _planted(generator, channels)
    places = generator.permutation(rows)[: QUERIES * NEIGHBOURS].reshape(QUERIES, NEIGHBOURS)
    data[places] = neighbours
    data.flush()
    np.savez(_beside(path), queries=queries, indices=places)
    return path


def _planted(generator: np.random.Generator, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Queries (Q, C) and their neighbours (Q, NEIGHBOURS, C), nearest first."""
    queries = generator.standard_normal((QUERIES, 1, channels))
    aside = generator.standard_normal((QUERIES, NEIGHBOURS, channels))
    squares = (queries**2).sum(-1, keepdims=True)
    aside -= (aside * queries).sum(-1, keepdims=True) / squares * queries
    aside *= np.sqrt(squares / (aside**2).sum(-1, keepdims=True))
    tenths = np.arange(1, NEIGHBOURS + 1)[:, None] / 10
    return queries[:, 0].astype("f4"), (queries + tenths * aside).astype("f4")


def measure(path: Path) -> Build:
    """Build from ``path`` in a process of its own."""
    command = [sys.executable, str(ROOT / "bench"), "build", "--measure", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the build failed:\n{done.stderr}")
    return Build(**json.loads(done.stdout.splitlines()[-1]))


def measure_here(path: Path) -> int:
    """Build and search once; print what was seen as one line of JSON."""
    planted = {name: torch.from_numpy(array) for name, array in np.load(_beside(path)).items()}
    with PrivatePeak() as peak:
        start = time.perf_counter()
        bank = flashmatch.PrototypeBank(path, metric="cosine")
        build_s = time.perf_counter() - start
    codes_mib = bank.nbytes / MIB  # a search keeps more of few rows
    start = time.perf_counter()
    found = bank.topk(planted["queries"], NEIGHBOURS)
    search_ms = 1e3 * (time.perf_counter() - start)
    build = Build(
        rows=len(bank),
        channels=bank.dim,
        file_mib=path.stat().st_size / MIB,
        build_s=build_s,
        codes_mib=codes_mib,
        private_mib=peak.private_mib,
        resident_mib=peak.resident_mib,
        search_ms=search_ms,
        agreement=(found.indices == planted["indices"]).double().mean().item(),
        held=verdict(peak.private_mib, codes_mib),
        **ledger.origin(torch.device("cpu")),
    )
    print(json.dumps(asdict(build)))
    return 0


def verdict(private_mib: float, codes_mib: float) -> str:
    return "held" if private_mib < codes_mib + ROOM_MIB else "missed"


def _beside(path: Path) -> Path:
    return path.with_name("planted.npz")
