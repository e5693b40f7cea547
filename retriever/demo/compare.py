"""Ways to the same matches, on the same data: time, memory, and who is right.

A gallery that stays is prepared once, by whoever can; the first two ways do so, and that is not
timed. The others are given the vectors as they are. Kept to what a demonstration needs; the
benchmark proper lies in ``bench``.
"""

import ctypes
import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional as F

from ...kernels import PrototypeBank, topk

Search = Callable[[], tuple[Tensor, Tensor]]
MIB = 2**20
ORIGINAL = "torch.cosine_similarity + sort"
EPS = 1e-8  # torch.cosine_similarity's own
ORIGINAL_BYTES = 2**30  # the original's formula may take so much, and is left out beyond
ROUNDS = (3, 15)
BUDGET_SECONDS = 6.0  # for all timed rounds of one comparison, where that allows the fewest rounds


@dataclass(frozen=True)
class Row:
    """One way of searching. None where it was not run, or where nobody counts memory."""

    name: str
    milliseconds: float | None
    """The median; a ``fastest`` far below it tells of a busy machine."""
    fastest: float | None
    peak_mib: float | None
    agreement: float | None
    """The share of its matches that are those of the fp64 search, rank by rank."""
    remark: str = ""


@dataclass(frozen=True)
class Comparison:
    title: str
    shape: str
    rounds: int
    rows: list[Row]


def compare(title: str, queries: Tensor, prototypes: Tensor, k: int) -> Comparison:
    """Cosine top-k of (Q, C) in (M, C) by this package, by matmul, and by mmpretrain's formula.

    The same ways whatever comes out, but for the original's formula where memory is too small.
    """
    searches = _searches(queries, prototypes, k)
    needed = 3 * len(queries) * prototypes.numel() * prototypes.element_size()
    left_out = needed > ORIGINAL_BYTES
    if left_out:
        del searches[ORIGINAL]
    answer = fp64_indices(queries, prototypes, k)
    agreement = {
        name: (search()[1] == answer).float().mean().item() for name, search in searches.items()
    }
    peaks = {name: peak_mib(search) for name, search in searches.items()}
    samples = interleave(searches)
    rows = [
        Row(name, 1e3 * median(times), 1e3 * min(times), peaks[name], agreement[name])
        for name, times in samples.items()
    ]
    if left_out:
        rows.append(Row(ORIGINAL, None, None, None, None, f"would hold {needed / 2**30:,.0f} GiB"))
    shape = (
        f"{len(queries)} queries x {len(prototypes):,} prototypes x {queries.shape[1]:,}, k = {k}"
    )
    return Comparison(title, shape, len(samples[rows[0].name]), rows)


def _searches(queries: Tensor, prototypes: Tensor, k: int) -> dict[str, Search]:
    bank, unit = PrototypeBank(prototypes), F.normalize(prototypes, eps=EPS)

    def original() -> tuple[Tensor, Tensor]:
        scores = torch.cosine_similarity(queries[:, None], prototypes[None], dim=-1)
        values, indices = scores.sort(dim=-1, descending=True)
        return values[:, :k], indices[:, :k]

    return {
        "flashmatch.PrototypeBank": lambda: bank.topk(queries, k),
        "torch matmul + topk, normalised before": lambda: _matmul(queries, unit, k),
        "flashmatch.topk": lambda: topk(queries, prototypes, k),
        "torch matmul + topk": lambda: _matmul(queries, F.normalize(prototypes, eps=EPS), k),
        ORIGINAL: original,
    }


def _matmul(queries: Tensor, unit: Tensor, k: int) -> tuple[Tensor, Tensor]:
    values, indices = (F.normalize(queries, eps=EPS) @ unit.T).topk(k)
    return values, indices


def fp64_indices(queries: Tensor, prototypes: Tensor, k: int) -> Tensor:
    """The answer all are judged by: every score in fp64, rounded to fp32, ties in index order."""
    queries = F.normalize(queries.double(), eps=EPS)
    blocks = [queries @ F.normalize(p.double(), eps=EPS).T for p in prototypes.split(8192)]
    return torch.cat(blocks, 1).float().sort(dim=1, descending=True, stable=True).indices[:, :k]


def interleave(searches: Mapping[str, Search]) -> dict[str, list[float]]:
    """Seconds of warm searches that take turns, round by round.

    Turns, because whatever else slows the machine then slows them all. Each is called twice and
    timed the second time, since the one before it, which never changes, has filled the caches.
    """
    fewest, most = ROUNDS
    samples: dict[str, list[float]] = {name: [] for name in searches}
    start = time.perf_counter()
    rounds = 0
    while rounds < fewest or (rounds < most and time.perf_counter() - start < BUDGET_SECONDS):
        rounds += 1
        for name, search in searches.items():
            search()
            begin = time.perf_counter()
            search()
            samples[name].append(time.perf_counter() - begin)
    return samples


def peak_mib(search: Search) -> float | None:
    """What one call adds to this process's resident memory at its worst; None outside Linux."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)  # freed pages still held would hide growth
        Path("/proc/self/clear_refs").write_text("5")  # the kernel forgets the peak so far
        before = _resident_kib("VmRSS")
        result = search()
        peak = _resident_kib("VmHWM")
    except (OSError, AttributeError):
        return None
    del result
    return max(0, peak - before) / 1024


def _resident_kib(field: str) -> int:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(field))


def enlarge(features: Tensor, rows: int, noise: float, seed: int) -> Tensor:
    """``rows`` features: the given ones over and over, every number changed by about ``noise``."""
    generator = torch.Generator().manual_seed(seed)
    large = features.repeat(-(-rows // len(features)), 1)[:rows]
    for block in large.split(8192):
        block.mul_(1 + noise * torch.randn(block.shape, generator=generator))
    return large
