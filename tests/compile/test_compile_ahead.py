"""Slice A's kernels, compiled ahead of time: how many there are, and that the JIT finds them."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import aot
import pytest
import torch
import triton
from triton._C.libtriton import get_cache_invalidating_env_vars
from triton.compiler import make_backend
from triton.runtime.cache import get_cache_key

from gpu.compile_ahead import Job, compile_all, jobs, pool, recording, slice_a
from gpu.compile_ahead.recording import nvidia, recorded
from gpu.kernel_cache import relocate
from measuring.links import ROOT, link

MOST_KERNELS = 64
STUBBORN = """
import os, time

class dies:
    preload = staticmethod(lambda data: os._exit(3))

class hangs:
    preload = staticmethod(lambda data: time.sleep(600))

class fails:
    preload = staticmethod(lambda data: int("what ptxas said\\nand more"))
"""
LAUNCHES = """
import json, sys
sys.path.insert(0, sys.argv[1])
import torch
from triton import knobs
from flashmatch.kernels.triton_backend.device.prototypes import fit_origin_kernel
from gpu.compile_ahead import recording
from gpu.probes.empty_kernel import empty_kernel

seen = []

def listen(*, src, metadata, cache_hit, **_):
    seen.append((src.name, metadata["hash"], cache_hit))

knobs.compilation.listener = listen
with recording._asked_by(recording._NoDevice(recording.nvidia(90))):
    empty_kernel.warmup(torch.zeros(1), grid=(1,))
    fit_origin_kernel.warmup(
        torch.zeros(3, 10), torch.zeros(10), 3, 10, 10, 1, METRIC="dot", num_warps=1, grid=(2,)
    )
print(json.dumps(seen))
"""
"""What a process launches that knows nothing of jobs: the JIT's own way, as far as a device."""


def test_slice_a_compiles_few_kernels() -> None:
    found = jobs(90)
    assert len(found) <= MOST_KERNELS, "\n".join(job.name for job in found)
    assert {job.kernel for job in found} == {*aot.KERNELS, "empty_kernel"}


def test_a_rehearsal_compiles_two() -> None:
    assert len(jobs(90, quick=True)) == 2
    assert set(jobs(90, quick=True)) < set(jobs(90))


def test_recording_sees_what_the_jit_specialises_on() -> None:
    from flashmatch.kernels.triton_backend.device.prototypes import fit_origin_kernel

    def launched(rows: int, start: int = 0) -> list[Job]:
        sample = torch.empty(1000, device="meta")[start:].as_strided((rows, 10), (10, 1))
        given = sample, torch.empty(10, device="meta"), *sample.shape, *sample.stride()
        launch = partial(fit_origin_kernel[(2,)], METRIC="dot", num_warps=1)
        return recorded(lambda: launch(*given), nvidia(90))

    assert launched(64) == launched(7)  # no argument of a call
    aligned, shifted = launched(64)[0], launched(64, start=1)[0]
    assert aligned.divisible - shifted.divisible == {"sample"}
    assert aligned.signature == shifted.signature


def test_what_was_compiled_is_found_elsewhere(tmp_path: Path) -> None:
    """By another checkout, in another folder, of a cache that was carried there."""
    cache, carried, copy = tmp_path / "cache", tmp_path / "carried", tmp_path / "copy"
    for folder in ("adapters", "bench", "kernels", "retriever", "src"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    cold = _launch(ROOT, cache)
    assert not any(found for _, _, found in cold)
    cache.rename(carried)
    assert _launch(copy, tmp_path / "another") == cold  # the same keys
    assert relocate(carried) == len(cold)
    assert _launch(copy, carried) == [[name, key, True] for name, key, _ in cold]


def test_what_the_pool_compiles_is_what_the_jit_looks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    asked = [job for job in jobs(90) if job.kernel == "empty_kernel"]
    (done,) = compile_all(asked, 90, 1, until=time.monotonic() + 60)
    assert done.status == pool.OK
    assert done.seconds > 0
    assert _launch(ROOT, tmp_path)[0][2]


def test_every_job_has_the_key_of_its_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key of what the JIT would compile where it launches, and where it is given a job."""
    keys: set[str] = set()

    class Nothing:
        function = packed_metadata = None
        launch_metadata = run = staticmethod(lambda *_: None)

    def note(source: Any, target: Any, options: dict, **_: object) -> Nothing:
        backend = make_backend(target)
        chosen = backend.parse_options(options)
        variables = get_cache_invalidating_env_vars()
        keys.add(get_cache_key(source, backend, chosen, env_vars=variables))
        return Nothing()

    monkeypatch.setattr(triton.compiler, "compile", note)
    asked, target = jobs(90), nvidia(90)
    kernels = [getattr(import_module(job.module), job.kernel) for job in asked]
    with recording._asked_by(recording._NoDevice(target)), slice_a._planned_for(90) as chip:
        _forget(kernels)
        for search in slice_a.searches(chip):
            search()
        launched = set(keys)
        _forget(kernels)
        keys.clear()
        for job, kernel in zip(asked, kernels, strict=True):
            kernel.preload(job.specialisation)
    _forget(kernels)
    assert launched == keys
    assert len(launched) == len(asked)


def _forget(kernels: Iterable) -> None:
    """What the JIT holds of them in this process."""
    for kernel in kernels:
        kernel.device_caches.clear()


def _launch(checkout: Path, cache: Path) -> list:
    links = link(checkout, cache.parent / f"links-{checkout.name}-{cache.name}")
    environment = {**os.environ, "TRITON_CACHE_DIR": str(cache), "PYTHONPATH": str(links)}
    command = [sys.executable, "-c", LAUNCHES, str(checkout / "bench")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_what_dies_hangs_or_fails_silences_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(pool, "PATIENCE_SECONDS", 30.0)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    (good,) = (job for job in jobs(90) if job.kernel == "empty_kernel")
    asked = [Job("stubborn", kernel, good.specialisation) for kernel in ("hangs", "dies", "fails")]
    done = {
        one.name.split()[0]: one
        for one in compile_all([*asked, good], 90, 2, until=time.monotonic() + 60)
    }
    assert done["empty_kernel"].status == pool.OK
    assert "exit code 3" in done["dies"].status
    assert done["fails"].status.startswith("ValueError: invalid literal")
    assert done["hangs"].status.startswith("given up after 30 s")


def test_nothing_is_begun_out_of_time() -> None:
    asked = jobs(90, quick=True)
    done = list(compile_all(asked, 90, 2, until=time.monotonic()))
    assert [one.status for one in done] == [pool.NOT_BEGUN] * 2
