"""Ways to the same matches, on the same data: time, memory, and who is right.

A gallery that stays is prepared once, by whoever can; the first three ways do so, and that is not
timed. The others are given the vectors as they are. Kept to what a demonstration needs; the
benchmark proper lies in ``bench``.
"""

import ctypes
import gc
import random
import time
from collections.abc import Callable, Container, Mapping
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
DOUBLE = "torch in fp64, normalised before"
LARGEST_BYTES = 2**30  # what a way may take, and is left out beyond
ROUNDS = (3, 15)
WARMING_SECONDS = 0.01  # for which each search is called before it is timed
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
    scores: float | None
    """The share of its scores that are: fp64's, rounded to fp32."""
    remark: str = ""


@dataclass(frozen=True)
class Comparison:
    title: str
    shape: str
    rounds: int
    rows: list[Row]


def compare(title: str, queries: Tensor, prototypes: Tensor, k: int) -> Comparison:
    """Cosine top-k of (Q, C) in (M, C) by this package, by matmul, and by mmpretrain's formula.

    The same ways whatever comes out, but for those that memory is too small for.
    """
    needed = {
        ORIGINAL: 3 * len(queries) * prototypes.numel() * prototypes.element_size(),
        DOUBLE: 3 * 8 * prototypes.numel(),
    }
    left_out = {name: size for name, size in needed.items() if size > LARGEST_BYTES}
    searches = _searches(queries, prototypes, k, left_out)
    answer = fp64_answer(queries, prototypes, k)
    agreement = {name: _shares(search(), answer) for name, search in searches.items()}
    peaks = {name: peak_mib(search) for name, search in searches.items()}
    samples = interleave(searches)
    rows = [
        Row(name, 1e3 * median(times), 1e3 * min(times), peaks[name], *agreement[name])
        for name, times in samples.items()
    ]
    for name, size in left_out.items():
        remark = f"would hold {size / 2**30:,.1f} GiB"
        rows.append(Row(name, None, None, None, None, None, remark))
    shape = (
        f"{len(queries)} queries x {len(prototypes):,} prototypes x {queries.shape[1]:,}, k = {k}"
    )
    return Comparison(title, shape, len(samples[rows[0].name]), rows)


def _shares(found: tuple[Tensor, Tensor], answer: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """Of indices, and of scores, that are the answer's."""
    scores, indices = ((a == b).float().mean().item() for a, b in zip(found, answer, strict=True))
    return indices, scores


def _searches(
    queries: Tensor, prototypes: Tensor, k: int, left_out: Container[str]
) -> dict[str, Search]:
    bank, unit = PrototypeBank(prototypes), F.normalize(prototypes, eps=EPS)
    double = None if DOUBLE in left_out else F.normalize(prototypes.double(), eps=EPS)

    def original() -> tuple[Tensor, Tensor]:
        scores = torch.cosine_similarity(queries[:, None], prototypes[None], dim=-1)
        values, indices = scores.sort(dim=-1, descending=True)
        return values[:, :k], indices[:, :k]

    def in_fp64() -> tuple[Tensor, Tensor]:
        assert double is not None
        values, indices = _matmul(queries.double(), double, k)
        return values.float(), indices

    searches = {
        "flashmatch.PrototypeBank": lambda: bank.topk(queries, k),
        DOUBLE: in_fp64,
        "torch matmul + topk, normalised before": lambda: _matmul(queries, unit, k),
        "flashmatch.topk": lambda: topk(queries, prototypes, k),
        "torch matmul + topk": lambda: _matmul(queries, F.normalize(prototypes, eps=EPS), k),
        ORIGINAL: original,
    }
    return {name: search for name, search in searches.items() if name not in left_out}


def _matmul(queries: Tensor, unit: Tensor, k: int) -> tuple[Tensor, Tensor]:
    values, indices = (F.normalize(queries, eps=EPS) @ unit.T).topk(k)
    return values, indices


def fp64_answer(queries: Tensor, prototypes: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The answer all are judged by: every score in fp64, rounded to fp32, ties in index order."""
    queries = F.normalize(queries.double(), eps=EPS)
    blocks = [queries @ F.normalize(p.double(), eps=EPS).T for p in prototypes.split(8192)]
    scores, indices = torch.cat(blocks, 1).float().sort(dim=1, descending=True, stable=True)
    return scores[:, :k], indices[:, :k]


def interleave(searches: Mapping[str, Search]) -> dict[str, list[float]]:
    """Seconds of warm searches that take turns, round by round, in another order each.

    Turns, because whatever else slows the machine then slows them all; in changing order, because
    the one before has filled the caches. Each is called until it has them: after 600 MiB of the
    original's, second calls took 1.2 to 1.4 times as long as fourth ones, and those as long as
    tenth ones (Xeon, Sapphire Rapids, two threads).
    """
    order, shuffle = list(searches.items()), random.Random(0).shuffle
    fewest, most = ROUNDS
    samples: dict[str, list[float]] = {name: [] for name in searches}
    start = time.perf_counter()
    rounds = 0
    while rounds < fewest or (rounds < most and time.perf_counter() - start < BUDGET_SECONDS):
        rounds += 1
        shuffle(order)
        for name, search in order:
            warm = time.perf_counter() + WARMING_SECONDS
            search()
            while time.perf_counter() < warm:
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
