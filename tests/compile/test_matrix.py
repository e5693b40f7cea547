"""Every kernel the plans can launch compiles for every chip, without spills, with tensor cores."""

import itertools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import aot
import pytest
import torch

from flashmatch.kernels import _triton, _triton_chip, _triton_int8
from flashmatch.kernels._codes import Codes, Frame, screen_norms
from flashmatch.kernels._rows import Rows
from flashmatch.kernels._triton_plan import HIP

SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024, "gfx942": 64 * 1024}
TENSOR_CORE = {80: "HMMA", 90: "HGMMA", 100: "UTCHMMA", "gfx942": "MFMA"}
INTEGER_CORE = {80: "IMMA", 90: "IGMMA", 100: "UTCIMMA", "gfx942": "MFMA int8"}
METRICS = ("cosine", "dot", "l2")
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
KS = (10, 100, 1000)  # one for each size of the repair kernel's list


Search = Callable[[], object]


def searches() -> Iterator[Search]:
    """(queries, dtype, k, metric, mask dimensions): all that a constexpr depends on."""
    wide = itertools.product([20], DTYPES, KS, METRICS, [0])
    pairs = itertools.product([20], DTYPES[:1], KS[:1], METRICS, [2])
    few = itertools.product([7], DTYPES[:3], KS[:1], METRICS, [0, 2])
    for queries, dtype, k, metric, mask_ndim in (*wide, *pairs, *few):
        rows = 20 * k + 320  # as many groups as are kept, or more
        q, p = torch.zeros(queries, 64, dtype=dtype), torch.zeros(rows, 64, dtype=dtype)
        mask = torch.ones(queries, rows, dtype=torch.bool) if mask_ndim else None
        yield partial(_triton.search_with_flags, q, [p], k, metric, mask, None)


def coded_searches() -> Iterator[Search]:
    """(queries, channels, dtype, k, metric, mask dimensions): the same, of a bank of codes.

    Rescoring differs from that above in how it finds its rows: one of each dtype stands for it.
    """
    scans = itertools.product([7, 20], [64, 128], DTYPES[:1], KS[:1], METRICS, [0])
    masks = [(7, 64, DTYPES[0], KS[0], "dot", 1), (20, 128, DTYPES[0], KS[0], "l2", 2)]
    rows = zip([20] * 3, [64] * 3, DTYPES[1:], KS, METRICS, [0] * 3, strict=True)
    for queries, channels, dtype, k, metric, mask_ndim in (*scans, *masks, *rows):
        count = 36 * k + 2400  # more groups than are kept
        q, p = (
            torch.zeros(queries, channels, dtype=dtype),
            torch.zeros(count, channels, dtype=dtype),
        )
        mask = torch.ones((queries, count)[2 - mask_ndim :], dtype=torch.bool)
        codes = Codes(
            Frame(metric, torch.zeros(channels), None), _triton_int8.LAYOUT, count, channels
        )
        codes.write(0, p, screen_norms(p))
        yield partial(
            _triton_int8.search, q, Rows([p]), codes, k, mask if mask_ndim else None, True
        )


def launches(arch: int) -> set[aot.Launch]:
    found: set[aot.Launch] = set()
    for search in (*searches(), *coded_searches()):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_triton_chip, "arch", lambda device: arch)
            found |= aot.record(patch, search)
    return found


@pytest.fixture(scope="session")
def reports() -> dict:
    return compile_all()


def compile_all() -> dict[tuple[aot.Launch, int | str], aot.Report]:
    """Every launch compiled for every chip, on all cores."""
    found = {arch: launches(HIP if arch == "gfx942" else arch) for arch in TENSOR_CORE}
    jobs = [(launch, arch) for arch in TENSOR_CORE for launch in found[arch]]
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("fork")) as pool:
        done = pool.map(aot.compile_launch, *zip(*jobs, strict=True), chunksize=4)
        return dict(zip(jobs, done, strict=True))


@pytest.mark.parametrize("arch", TENSOR_CORE)
def test_no_spills(reports: dict, arch: int | str) -> None:
    spilled = {str(launch): report for (launch, a), report in reports.items()
               if a == arch and report.spills}  # fmt: skip
    assert not spilled


@pytest.mark.parametrize("arch", TENSOR_CORE)
def test_shared_memory_fits(reports: dict, arch: int | str) -> None:
    large = {str(launch): report for (launch, a), report in reports.items()
             if a == arch and report.shared_bytes > SHARED_LIMIT[arch]}  # fmt: skip
    assert not large


@pytest.mark.parametrize("arch", TENSOR_CORE)
def test_scans_use_tensor_cores(reports: dict, arch: int | str) -> None:
    scans = {launch: report for (launch, a), report in reports.items()
             if a == arch and launch.kernel.startswith("scan")}  # fmt: skip
    assert {launch.kernel for launch in scans} == {
        "scan_kernel", "scan_raw_kernel", "scan_codes_kernel", "scan_few_codes_kernel",
    }  # fmt: skip
    for launch, report in scans.items():
        core = INTEGER_CORE if "codes" in launch.kernel else TENSOR_CORE
        assert report.instructions.get(core[arch]), launch


@pytest.mark.parametrize("arch", [80, 90, 100])
def test_prepared_scans_copy_asynchronously(reports: dict, arch: int) -> None:
    """Honest divisibility hints keep the cp.async pipeline: the copies are padded for it."""
    scans = [report for (launch, a), report in reports.items()
             if a == arch and launch.kernel.startswith("scan")
             and launch.kernel != "scan_raw_kernel"]  # fmt: skip
    assert all(report.instructions.get("LDGSTS") for report in scans)


def test_every_kernel_is_in_the_matrix(reports: dict) -> None:
    assert {launch.kernel for launch, _ in reports} == set(aot.KERNELS)


if __name__ == "__main__":  # the table of registers, spills, shared memory and instructions
    for (launch, arch), report in compile_all().items():
        print(arch, launch, report, sep="\t")
