"""Every kernel the plans can launch compiles for every chip, without spills, with tensor cores."""

import itertools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context

import aot
import pytest
import torch
from by_triton import search_codes, search_whole, search_with_flags
from problems import Problem

from flashmatch.kernels.codes.frame import Frame
from flashmatch.kernels.codes.pages import Codes
from flashmatch.kernels.codes.rotation import Rotation
from flashmatch.kernels.storage.clean_rows import screen_norms
from flashmatch.kernels.triton_backend import bank_search, chips, vector_search
from flashmatch.kernels.triton_backend.chips import Chip
from flashmatch.kernels.triton_backend.plan import SearchPlan
from flashmatch.kernels.triton_backend.tiles import HIP, RDNA, Tile, int8_tiles


@dataclass(frozen=True)
class Target:
    arch: int  # as the tiles name it
    shared_kib: int  # that a program may have
    tensor_core: str  # its instruction for fp16 and TF32
    integer_core: str


TARGETS: dict[int | str, Target] = {
    80: Target(80, 163, "HMMA", "IMMA"),
    86: Target(86, 99, "HMMA", "IMMA"),
    89: Target(89, 99, "HMMA", "IMMA"),
    90: Target(90, 227, "HGMMA", "IGMMA"),
    100: Target(100, 227, "UTCHMMA", "UTCIMMA"),
    120: Target(120, 99, "HMMA", "IMMA"),
    "gfx942": Target(HIP, 64, "float", "int8"),
    "gfx1100": Target(RDNA, 64, "float", "int8"),
}
METRICS = ("cosine", "dot", "l2")
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
KS = (10, 100, 1000)  # few slots, and many


Search = Callable[[], object]


def searches() -> Iterator[Search]:
    """(queries, channels, dtype, k, metric, mask dimensions): all that a constexpr depends on."""
    wide = itertools.product([20], [64], DTYPES, KS[1:], METRICS, [0])
    pairs = itertools.product([20], [64], DTYPES[:1], KS[:1], METRICS, [2])
    few = itertools.product([7], [64], DTYPES[:3], KS[::2], METRICS, [0, 2])
    uneven = itertools.product([7], [20], DTYPES[:1], KS[:1], METRICS, [1])
    for queries, channels, dtype, k, metric, mask_ndim in (*wide, *pairs, *few, *uneven):
        rows = 36 * k + 2400
        q, p = (torch.zeros(n, channels, dtype=dtype) for n in (queries, rows))
        mask = torch.ones((queries, rows)[2 - mask_ndim :], dtype=torch.bool)
        problem = Problem(q, [p], k, metric, mask if mask_ndim else None, "exclude", None)
        yield partial(search_with_flags, problem)
    for rows, dtype, metric in itertools.product([50, 2000], DTYPES, METRICS):  # all are scored
        q, p = (torch.zeros(n, 64, dtype=dtype) for n in (2, rows))
        yield partial(search_whole, Problem(q, [p], KS[0], metric, None, "exclude", None))


def coded_searches() -> Iterator[Search]:
    """(queries, channels, dtype, k, metric, mask dimensions): the same, of a bank of codes.

    Settling differs by metric, dtype and slots: each of them is there, if not with each other.
    """
    scans = itertools.product([7, 20], [64, 128], DTYPES[:1], KS[:1], METRICS, [0])
    masks = [(7, 64, DTYPES[0], KS[0], "dot", 1), (20, 128, DTYPES[0], KS[0], "l2", 2)]
    rows = zip([20] * 3, [64] * 3, DTYPES[1:], KS, METRICS, [0] * 3, strict=True)
    for queries, channels, dtype, k, metric, mask_ndim in (*scans, *masks, *rows):
        count = 36 * k + 2400
        q, p = (
            torch.zeros(queries, channels, dtype=dtype),
            torch.zeros(count, channels, dtype=dtype),
        )
        mask = torch.ones((queries, count)[2 - mask_ndim :], dtype=torch.bool)
        problem = Problem(q, [p], k, metric, mask if mask_ndim else None, "exclude", None)
        yield partial(search_codes, problem, coded(p, metric, rotated=dtype != torch.float32))


def coded(rows: torch.Tensor, metric: str, rotated: bool = False) -> Codes:
    count, channels = rows.shape
    rotation = Rotation(channels, 0, rows.device) if rotated else None
    frame = Frame(metric, torch.zeros(channels), rotation)
    codes = Codes(frame, bank_search.LAYOUT, count, channels)
    codes.write(0, rows, screen_norms(rows))
    return codes


def cut_searches(arch: int) -> Iterator[tuple[Search, Tile]]:
    """The scans of each tile; those with masks of pairs are among the searches above."""
    for channels, metric in itertools.product([64, 128, 192], METRICS):
        rows = torch.zeros(2400, channels)
        problem = Problem(rows[:20], [rows], 10, metric, None, "exclude", None)
        for tile in int8_tiles(channels, arch):
            yield partial(search_codes, problem, coded(rows, metric)), tile


def launches(arch: int | str) -> set[aot.Launch]:
    found: set[aot.Launch] = set()
    chip = Chip(TARGETS[arch].arch, 132)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chips, "chip", lambda device: chip)
        for module in (bank_search, vector_search):
            patch.setattr(module, "choose_plan", in_rounds(module.choose_plan))
        for search in (*searches(), *coded_searches()):
            found |= aot.record(search, arch)
        for search, tile in cut_searches(chip.arch):
            found |= {one for one in _with_tile(search, tile, arch) if one.is_scan}
    return found


def in_rounds(choose: Callable[..., SearchPlan]) -> Callable[..., SearchPlan]:
    """As larger searches go: what has one round is never scanned again."""
    return lambda *args, **kwargs: replace(choose(*args, **kwargs), strips=1, capacity=8)


def _with_tile(search: Search, tile: Tile, arch: int | str) -> set[aot.Launch]:
    choose = bank_search.choose_plan
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            bank_search, "choose_plan", lambda *args, **kw: replace(choose(*args, **kw), tile=tile)
        )
        return aot.record(search, arch)


@pytest.fixture(scope="session")
def reports() -> dict:
    return compile_all()


def compile_all() -> dict[tuple[aot.Launch, int | str], aot.Report]:
    """Every launch compiled for every chip, on all cores."""
    jobs = [(launch, arch) for arch in TARGETS for launch in _chosen(arch)]
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("fork")) as pool:
        done = pool.map(aot.compile_launch, *zip(*jobs, strict=True), chunksize=4)
        return dict(zip(jobs, done, strict=True))


def _chosen(arch: int | str) -> set[aot.Launch]:
    """All launches for sm_90; for one chip of each other kind a metric for each dtype, in turn.

    For the relatives of those scans of l2, and each variant once.
    """
    found = launches(arch)
    if arch == 90:
        return found
    if arch in (80, 100, "gfx942"):
        return {launch for launch in found if _is_in_turn(launch)}
    first = {launch.variant: launch for launch in sorted(found, key=str, reverse=True)}
    scans = {launch for launch in found if launch.is_scan}
    return {scan for scan in scans if scan.constants.get("METRIC") in ("l2", None)} | set(
        first.values()
    )


def _is_in_turn(launch: aot.Launch) -> bool:
    """Whether the turn of its dtype is its metric's; both have few variants without the other."""
    names = [name for name in ("prototypes", "queries", "sample") if name in launch.signature]
    metric = launch.constants.get("METRIC")
    if metric is None or not names:
        return True
    turn = ("*fp32", "*fp16", "*bf16", "*fp64").index(launch.signature[names[0]])
    return metric == METRICS[turn % len(METRICS)]


@pytest.mark.parametrize("arch", TARGETS)
def test_no_spills(reports: dict, arch: int | str) -> None:
    spilled = {str(launch): report for (launch, a), report in reports.items()
               if a == arch and report.spills}  # fmt: skip
    assert not spilled


@pytest.mark.parametrize("arch", TARGETS)
def test_shared_memory_fits(reports: dict, arch: int | str) -> None:
    large = {str(launch): report for (launch, a), report in reports.items()
             if a == arch and report.shared_bytes > 1024 * TARGETS[arch].shared_kib}  # fmt: skip
    assert not large


@pytest.mark.parametrize("arch", TARGETS)
def test_scans_use_tensor_cores(reports: dict, arch: int | str) -> None:
    scans = {launch: report for (launch, a), report in reports.items()
             if a == arch and launch.is_scan}  # fmt: skip
    expected = {"scan_codes_kernel"} | (set() if arch == "gfx1100" else {"scan_rows_kernel"})
    assert {launch.kernel for launch in scans} == expected
    for launch, report in scans.items():
        target = TARGETS[arch]
        core = target.integer_core if "codes" in launch.kernel else target.tensor_core
        assert report.instructions.get(core), launch


@pytest.mark.parametrize("arch", [80, 86, 89, 90, 100, 120])
def test_scans_copy_asynchronously(reports: dict, arch: int) -> None:
    """Honest divisibility hints keep the cp.async pipeline: the copies are padded for it."""
    for (launch, a), report in reports.items():
        if a == arch and launch.kernel == "scan_codes_kernel":
            assert report.instructions.get("LDGSTS"), launch


def test_every_kernel_is_in_the_matrix(reports: dict) -> None:
    assert {launch.kernel for launch, _ in reports} == aot.KERNELS


if __name__ == "__main__":  # the table of registers, spills, shared memory and instructions
    for (launch, arch), report in compile_all().items():
        print(arch, launch, report, sep="\t")
