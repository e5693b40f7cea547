"""What the probes of `bench gpu` find, on a CPU or of devices that are made up."""

import ast
import json
import os
import signal
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from programs import output_of

from flashmatch.kernels.contract import reference
from gpu import figures, parts, probes
from gpu.kernel_stages import STAGES, by_stage, stage_of
from gpu.probes import ceilings, facts, first_calls, memory, peers, search, stages, tiles
from gpu.table import table
from providers.registry import select

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")


def _kernels() -> set[str]:
    """Every @triton.jit function that can be launched: the others are called by them."""
    trees = [ast.parse(path.read_text()) for path in (ROOT / "kernels").rglob("*.py")]
    return {
        node.name
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name.endswith("_kernel")
        if any("jit" in ast.unparse(decorator) for decorator in node.decorator_list)
    }


def test_every_kernel_has_a_stage() -> None:
    found = _kernels()
    assert {"scan_codes_kernel", "repair_kernel", "kth_kernel"} <= found
    assert [name for name in found if stage_of(name) == "other"] == []
    assert {stage_of(name) for name in found} == set(STAGES) - {"other"}


def test_stages_of_what_torch_launches() -> None:
    assert stage_of("void at::native::mbtopk::radixFindKthValues<float>") == "select"
    assert stage_of("void at::native::sbtopk::gatherTopK<float, unsigned int>") == "select"
    assert stage_of("void cub::DeviceRadixSortOnesweepKernel<...>") == "select"
    assert stage_of("void at::native::vectorized_elementwise_kernel<4, ...>") == "other"
    assert stage_of("Memcpy DtoD (Device -> Device)") == "other"
    sums = by_stage([("scan_kernel", 2.0), ("scan_codes_kernel", 1.0), ("x", 0.5)])
    assert (sums["scan"], sums["other"], sums["repair"]) == (3.0, 0.5, 0.0)


def test_only_what_ran_on_the_device_is_counted() -> None:
    def event(name: str, kind: str, us: float) -> SimpleNamespace:
        span = SimpleNamespace(elapsed_us=lambda: us)
        return SimpleNamespace(
            name=name, device_type=getattr(stages.DeviceType, kind), time_range=span
        )

    events = [event("scan_kernel", "CUDA", 1500.0), event("aten::topk", "CPU", 9e6)]
    assert stages.on_device(events) == [("scan_kernel", 1.5)]


def test_stages_are_figures(monkeypatch, tmp_path: Path) -> None:
    def kernels(call) -> list[tuple[str, float]]:
        call()
        return [("scan_codes_kernel", 2.0), ("repair_kernel", 0.5)]

    assert stages.kernels_of(lambda: torch.ones(3)) == []  # a CPU is no device
    monkeypatch.setattr(stages, "kernels_of", kernels)
    assert stages.run(CPU, tmp_path, tiny=True) == 0
    found = {f.what: f for f in figures.read(tmp_path)}
    assert found["bank: scan"].value == 2.0
    assert found["topk: repair"].value == 0.5
    assert found["bank: kernels"].value == found["int8 product, chunked: kernels"].value == 2.5
    assert found["topk: call"].value > 0
    blind = tmp_path / "blind"
    monkeypatch.setattr(stages, "kernels_of", lambda call: [])
    assert stages.run(CPU, blind, tiny=True) == 0
    assert any(f.status == "no kernels were seen" for f in figures.read(blind))


def test_every_tile_is_a_figure_and_the_fastest_are_a_table(monkeypatch, tmp_path: Path) -> None:
    pytest.importorskip("triton")
    from flashmatch.kernels.triton_backend import tile_sweep, tuned_tiles
    from flashmatch.kernels.triton_backend.tile_sweep import Case, Trial
    from flashmatch.kernels.triton_backend.tiles import fp16_tiles

    monkeypatch.setenv("FLASHMATCH_CACHE", str(tmp_path / "cache"))
    plain, wide, persistent, _ = fp16_tiles(90)

    def sweep(device, *sizes):
        assert sizes[:-1] == tiles.TINY
        trials = Trial(plain, 2e-3), Trial(wide, 1e-3), Trial(persistent, None, "differs")
        yield Case("fp16", 64, 20, (128, 1024), trials[:2])
        yield Case("int8", 64, 20, (128, 1024), trials[1:])

    monkeypatch.setattr(tile_sweep, "sweep", sweep)
    assert tiles.run(CPU, tmp_path, tiny=True) == 1
    found = figures.read(tmp_path)
    assert [f.value for f in found] == [2.0, 1.0, 1.0, None]
    assert found[-1].status == "differs"
    line = "scan of topk, 20 queries 128x1024x64/10/cosine/float16: tile 0 2 ms, tile 1 1 ms"
    assert line in table(tmp_path).splitlines()
    fastest = tuned_tiles.read(next(tmp_path.glob("tiles-cpu-triton-*.json")))
    assert fastest is not None
    assert [row.tile for row in fastest.rows] == [wide, wide]
    assert not (tmp_path / "cache").exists()

    def none(*_):
        raise RuntimeError("no tile at all")
        yield

    monkeypatch.setattr(tile_sweep, "sweep", none)
    assert tiles.run(CPU, tmp_path / "none", tiny=True) == 1
    assert "no tile at all" in figures.read(tmp_path / "none")[0].status
    assert "scan of the rest : tile any " in table(tmp_path / "none")


def test_ceilings_memory_and_facts_on_a_cpu(monkeypatch, tmp_path: Path) -> None:
    pytest.importorskip("triton")
    empty = SimpleNamespace(empty_kernel={(1,): lambda argument: None})
    monkeypatch.setitem(sys.modules, "gpu.probes.empty_kernel", empty)
    for kind in ("ceilings", "memory"):
        given = {"kind": kind, "device": "cpu", "tiny": True, "results": tmp_path / kind}
        assert probes.main(Namespace(**given)) == 0
    found = {f.what: f for f in figures.read(tmp_path)}
    assert found["int8 product"].unit == "TOP/s"
    assert all(f.value > 0 for f in found.values() if f.part == "ceilings")
    assert found["bank"].unit == memory.WITHIN
    facts.run(CPU, tmp_path / "facts")
    kept = json.loads((tmp_path / "facts" / "facts.json").read_text())
    assert "flashmatch.topk" in kept["providers"]
    text = table(tmp_path)
    assert "int8, chunked" in text
    assert "memory: bank" in text
    assert "torch " in text


def test_a_ceiling_that_cannot_be_had_is_a_figure(monkeypatch, tmp_path: Path) -> None:
    def broken(*_) -> None:
        raise RuntimeError("no\nsuch unit")

    monkeypatch.setattr(ceilings, "int8_product", broken)
    monkeypatch.setattr(ceilings, "_empty_kernel", ceilings._tiny_op)
    assert ceilings.run(CPU, tmp_path, tiny=True) == 1
    found = [f for f in figures.read(tmp_path) if f.what == "int8 product"]
    assert {f.status for f in found} == {"error: RuntimeError: no such unit"}
    assert "RuntimeError" in table(tmp_path)


def test_a_search_that_holds_too_much_fails_its_part(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "peak_mib", lambda call, device: 1e6)
    assert memory.run(CPU, tmp_path, tiny=True) == 1
    over = {f.what for f in figures.read(tmp_path) if f.status.startswith("over")}
    assert over == {"topk", "bank"}  # building a bank is not a search


def test_driver_facts(monkeypatch) -> None:
    def smi(command, **_):
        name = command[1].removeprefix("--query-gpu=")
        known = {"driver_version": "580.1\n", "clocks.max.sm": "1980 MHz\n"}
        return SimpleNamespace(returncode=int(name not in known), stdout=known.get(name, "no"))

    monkeypatch.setattr(facts.shutil, "which", lambda name: name)
    monkeypatch.setattr(facts.subprocess, "run", smi)
    assert facts.smi() == {"driver_version": "580.1", "clocks.max.sm": "1980 MHz"}
    monkeypatch.setattr(facts.shutil, "which", lambda name: None)
    assert facts.smi() == {"nvidia-smi": "not installed"}


def test_first_calls_cold_and_warm(monkeypatch, tmp_path: Path, capsys) -> None:
    caches = []

    def run(command, env, **_):
        caches.append(env["TRITON_CACHE_DIR"])
        assert command[2:4] == ["probe", "first-call"]
        seconds = 2.0 if len(caches) == 1 else 0.1
        found = {"compiled": {"scan_kernel": seconds}, "searches": {"topk 1x2x3": [3.0, 0.5]}}
        return SimpleNamespace(returncode=0, stdout=f"x\n{first_calls.MARK}{json.dumps(found)}\n")

    monkeypatch.setattr(first_calls.subprocess, "run", run)
    assert first_calls.run(CPU, tmp_path) == 0
    assert caches[0] == caches[1]
    assert not Path(caches[0]).exists()
    found = {(f.what, f.shape): f.value for f in figures.read(tmp_path)}
    assert found["compiling, cold", "all kernels"] == 2000
    assert found["compiling, warm", "scan_kernel"] == 100
    assert found["first call, warm", "topk 1x2x3"] == 3000
    assert "compiling, cold all kernels: 2000 ms" in table(tmp_path)


def test_first_calls_listen_to_the_compiler(monkeypatch, capsys) -> None:
    knobs = pytest.importorskip("triton").knobs
    monkeypatch.setattr(knobs.compilation, "listener", None)
    assert first_calls.child(CPU, tiny=True) == 0
    listener = knobs.compilation.listener
    for hit in (False, True):
        times = SimpleNamespace(total=5e5)
        listener(src=None, metadata={"name": "k"}, metadata_group={}, times=times, cache_hit=hit)
    out, err = capsys.readouterr()
    found = json.loads(out.removeprefix(first_calls.MARK))
    assert len(found["searches"]) == 4
    assert err.splitlines() == ["k: 0.50 s", "k: 0.50 s (found)"]


def test_the_probe_notices_a_wrong_answer(monkeypatch, capsys) -> None:
    few = list(search.cases(tiny=True))[:4]
    monkeypatch.setattr(search, "cases", lambda tiny, tiles: few)
    for name in ("_topk", "_bank"):
        monkeypatch.setattr(search, name, reference.topk)
    assert search.run(CPU, tiny=True) == 0
    monkeypatch.setattr(search, "_bank", lambda *a: [x.flip(1) for x in reference.topk(*a)])
    assert search.run(CPU, tiny=True) == 1
    monkeypatch.setattr(search, "_bank", lambda *a: 1 / 0)
    assert search.run(CPU, tiny=True) == 1
    assert (
        "bank 1x33x1/5/cosine/float32, mask of 0 dimensions, tile 0: error: ZeroDivisionError"
        in (capsys.readouterr().out)
    )


_WATCHED = """
import sys
sys.path.insert(0, {bench!r})
import torch
from triton.runtime.interpreter import InterpretedFunction
from gpu.probes import search

launched, launch = set(), InterpretedFunction.__getitem__
def watched(kernel, grid):
    launched.add(kernel.fn.__name__)
    return launch(kernel, grid)
InterpretedFunction.__getitem__ = watched
every = search.cases
search.cases = lambda tiny, tiles: [
    c for c in every(tiny, tiles) if c.tile == tiles - 1 > 0 or c.shape.metric in ("l2", "ties")
]
assert search.run(torch.device("cpu"), tiny=True) == 0
print("launched", *launched)
"""


def test_what_a_sanitizer_watches_is_every_kernel_and_right() -> None:
    """Interpreted, in a process of its own."""
    pytest.importorskip("triton")
    code = _WATCHED.format(bench=str(ROOT / "bench"))
    env = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    printed = output_of("-W", "ignore", "-c", code, env=env)
    assert "error" not in printed
    assert _kernels() <= set(printed.splitlines()[-1].split())


def test_a_peer_that_dies_is_news_only(monkeypatch, tmp_path: Path, capsys) -> None:
    stub = tmp_path / "bench"
    stub.write_text(
        "import os, sys\nname = sys.argv[-1]\n"
        "if name == 'dies': os.abort()\n"
        "if name == 'hangs': import time; time.sleep(60)\n"
        "print(f'| {name} | 0.99 | 12.5 | 1 to 2 | 3 | 4 | ok |')\n"
    )
    monkeypatch.setattr(peers, "ROOT", tmp_path)
    monkeypatch.setattr(peers, "SECONDS", 1.5)
    template = select(CPU, ["flashmatch.topk"])[0]
    others = [replace(template, name=name, module="json") for name in ("good", "dies", "hangs")]
    monkeypatch.setattr(peers, "select", lambda device: [template, *others])
    assert peers.run(CPU, tmp_path / "own" / "peers", minutes=1) == 0
    found = json.loads((tmp_path / "own" / "peers" / parts.PEERS).read_text())
    assert found["good"] == "agreement 0.99, 12.5 ms; ok"
    assert found["dies"].startswith(f"died (-{int(signal.SIGABRT)})")
    assert found["hangs"].startswith("hung")
    assert parts.survivors(tmp_path / "own") == [template.name, "good"]
