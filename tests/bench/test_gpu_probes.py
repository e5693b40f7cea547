"""What the probes of `bench gpu` find, on a CPU or of devices that are made up."""

import ast
import json
import os
import signal
import sys
import time
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from programs import output_of

from flashmatch.kernels.contract import reference
from gpu import figures, parts, probes
from gpu.kernel_stages import STAGES, VENDOR, by_stage, stage_of
from gpu.probes import ceilings, facts, memory, peers, search, selfcheck, stages, tiles, warm_up
from gpu.table import table
from measuring.timing import OVER
from providers.provider import Unsupported
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
    assert {"scan_codes_kernel", "scan_rows_kernel", "settle_kernel"} <= found
    assert [name for name in found if stage_of(name) == "other"] == []
    assert {stage_of(name) for name in found} == set(STAGES) - {"other"}


def test_stages_of_what_torch_launches() -> None:
    assert stage_of("void at::native::vectorized_elementwise_kernel<4, ...>") == "other"
    assert stage_of("void at::native::(anonymous namespace)::scale_kernel<float>") == "other"
    assert stage_of("Memcpy DtoD (Device -> Device)") == "other"
    sums = by_stage([("scan_rows_kernel", 2.0), ("scan_codes_kernel", 1.0), ("x", 0.5)])
    assert sums == {"prepare": 0.0, "scan": 3.0, "settle": 0.0, "other": 0.5}


def test_only_what_ran_on_the_device_is_counted() -> None:
    def event(name: str, kind: str, us: float, start: float = 0.0) -> SimpleNamespace:
        span = SimpleNamespace(elapsed_us=lambda: us, start=start)
        return SimpleNamespace(
            name=name, device_type=getattr(stages.DeviceType, kind), time_range=span
        )

    events = [event("scan_rows_kernel", "CUDA", 1500.0), event("aten::copy_", "CPU", 9e6)]
    scan, settled = ("scan_rows_kernel", 1.5), ("settle_kernel", 0.5)
    assert stages.on_device(events) == [scan]
    later = event("settle_kernel", "CUDA", 500.0, 7.0)
    assert stages.on_device([later, *events]) == [scan, settled]


def test_a_session_of_several_calls_is_cut_where_each_began() -> None:
    calls = [[("scan_rows_kernel", ms), ("copy", 0.5)] for ms in (3.0, 1.0, 2.0)]
    assert stages.in_calls([*calls[0], *calls[1], *calls[2]], 3) == calls
    uneven = [("scan_rows_kernel", 3.0), ("copy", 0.5), ("settle_kernel", 1.0), ("copy", 1.0)]
    assert stages.in_calls(uneven, 2) == [[(name, ms / 2) for name, ms in uneven]]
    [mean] = stages.in_calls(uneven[:3], 2)
    assert sum(ms for _, ms in mean) == 2.25
    assert stages.in_calls([], 3) == [[], [], []]


def test_stages_are_figures(monkeypatch, tmp_path: Path) -> None:
    def kernels(call) -> list[list[tuple[str, float]]]:
        call()
        return [[("scan_codes_kernel", ms), ("settle_kernel", 0.5)] for ms in (9.0, 2.0, 1.0)]

    assert stages.kernels_of(lambda: torch.ones(3)) == [[]] * stages.CALLS  # a CPU is no device
    monkeypatch.setattr(stages, "kernels_of", kernels)
    assert stages.run(CPU, tmp_path, 9, tiny=True) == 0
    found = {f.what: f for f in figures.read(tmp_path)}
    assert found["bank: scan"].value == 2.0
    assert found["topk: settle"].value == 0.5
    assert found["bank: kernels"].value == found["int8 product, chunked: kernels"].value == 2.5
    assert found["topk: call"].value > 0
    blind = tmp_path / "blind"
    monkeypatch.setattr(stages, "kernels_of", lambda call: [[]])
    monkeypatch.setattr(stages, "int8_product", _unsupported)
    assert stages.run(CPU, blind, 9, tiny=True) == 0
    found = {f.what: f.status for f in figures.read(blind)}
    assert found["bank: kernels"] == "no kernels were seen"
    assert found[VENDOR[0]] == "skipped: too large"


def _unsupported(*_) -> None:
    raise Unsupported("too large")


@pytest.mark.parametrize("kind", ["ceilings", "stages", "tiles", "memory", "search"])
def test_a_probe_begins_nothing_when_its_minutes_are_over(kind: str, tmp_path: Path, capsys):
    if kind in ("tiles", "search"):
        pytest.importorskip("triton")
    given = {"kind": kind, "device": "cpu", "tiny": True, "results": tmp_path, "minutes": 0.01}
    given["first"] = None
    assert probes.main(Namespace(**given), begun=time.monotonic() - 60) == 0
    _, _, left = capsys.readouterr().out.partition(OVER)
    assert left.strip()
    assert not list(tmp_path.iterdir())


def test_every_tile_is_a_figure_and_the_fastest_are_a_table(monkeypatch, tmp_path: Path) -> None:
    pytest.importorskip("triton")
    from flashmatch.kernels.triton_backend import tuned_tiles
    from flashmatch.kernels.triton_backend.selfcheck import tile_sweep
    from flashmatch.kernels.triton_backend.selfcheck.tile_sweep import Case, Trial
    from flashmatch.kernels.triton_backend.tiles import int8_tiles

    monkeypatch.setenv("FLASHMATCH_CACHE", str(tmp_path / "cache"))
    plain, wide = int8_tiles(64, 90)

    def sweep(device, *sizes):
        assert sizes[:-1] == tiles.TINY  # of which each is one
        yield Case(64, 20, (128, 1024), (Trial(plain, 2e-3), Trial(wide, 1e-3)))
        yield Case(64, 20, (128, 2048), (Trial(plain, 1e-3), Trial(wide, None, "differs")))

    monkeypatch.setattr(tile_sweep, "sweep", sweep)
    assert tiles.run(CPU, tmp_path, 9, tiny=True) == 1
    found = figures.read(tmp_path)
    assert [f.value for f in found] == [2.0, 1.0, 1.0, None]
    assert found[-1].status == "differs"
    line = "scan of 20 queries 128x1024x64/10/cosine/float16: tile 0 2 ms, tile 1 1 ms"
    assert line in table(tmp_path).splitlines()
    fastest = tuned_tiles.read(next(tmp_path.glob("tiles-cpu-triton-*.json")))
    assert fastest is not None
    assert [row.tile for row in fastest.rows] == [wide, plain]
    assert not (tmp_path / "cache").exists()

    def none(*_):
        raise RuntimeError("no tile at all")
        yield

    monkeypatch.setattr(tile_sweep, "sweep", none)
    assert tiles.run(CPU, tmp_path / "none", 9, tiny=True) == 1
    assert "no tile at all" in figures.read(tmp_path / "none")[0].status
    assert "scan of the rest : tile any " in table(tmp_path / "none")


def test_a_probe_ends_with_what_it_has(monkeypatch, tmp_path: Path, capsys) -> None:
    def calls(shape, device):
        yield "topk", lambda: time.sleep(0.3), 0

    monkeypatch.setattr(memory, "_calls", calls)
    monkeypatch.setattr(memory, "TINY", memory.SHAPES)
    assert memory.run(CPU, tmp_path, 0.02, tiny=True) == 0
    found = [f.shape for f in figures.read(tmp_path)]
    assert found == [str(shape) for shape in memory.SHAPES[: len(found)]]
    assert 1 <= len(found) < len(memory.SHAPES)
    assert f"{OVER}{memory.SHAPES[len(found)]}" in capsys.readouterr().out


def test_ceilings_memory_and_facts_on_a_cpu(monkeypatch, tmp_path: Path) -> None:
    pytest.importorskip("triton")
    empty = SimpleNamespace(empty_kernel={(1,): lambda argument: None})
    monkeypatch.setitem(sys.modules, "gpu.probes.empty_kernel", empty)
    for kind in ("ceilings", "memory", "facts"):
        given = {"kind": kind, "device": "cpu", "tiny": True, "results": tmp_path / kind}
        assert probes.main(Namespace(**given, minutes=9.0), time.monotonic()) == 0
    found = {f.what: f for f in figures.read(tmp_path)}
    assert found["int8 product"].unit == "TOP/s"
    assert all(f.value > 0 for f in found.values() if f.part == "ceilings")
    assert found["bank"].unit == memory.WITHIN
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
    assert ceilings.run(CPU, tmp_path, 9, tiny=True) == 1
    found = [f for f in figures.read(tmp_path) if f.what == "int8 product"]
    assert {f.status for f in found} == {"error: RuntimeError: no such unit"}
    assert "RuntimeError" in table(tmp_path)


def test_a_search_that_holds_too_much_fails_its_part(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "peak_mib", lambda call, device: 1e6)
    assert memory.run(CPU, tmp_path, 9, tiny=True) == 1
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


def test_warm_up_compiles_and_says_what_was_left(monkeypatch, tmp_path: Path, capsys) -> None:
    """Without a device, the two cheapest kernels, as compile_ahead is asked to."""

    class Ahead(ModuleType):
        left = 0

        def jobs(self, arch: int, quick: bool) -> list[str]:
            assert (arch, quick) == (warm_up.REHEARSED_ARCH, True)
            return ["scan", "code", "settle"]

        def compile_all(self, jobs, arch: int, processes: int, until: float):
            assert processes == os.cpu_count()
            assert 0 < until - time.monotonic() <= 60
            statuses = ("ok", "no such instruction", "ok")
            for name, seconds, status in list(zip(jobs, (2.0, 1.0, 4.0), statuses, strict=True)):
                if name != jobs[-1] or not self.left:
                    yield SimpleNamespace(name=name, seconds=seconds, status=status)

    ahead = Ahead("gpu.compile_ahead")
    monkeypatch.setitem(sys.modules, "gpu.compile_ahead", ahead)
    assert warm_up.run(CPU, tmp_path / "warm-up", 1, tiny=True) == 1
    assert OVER not in capsys.readouterr().out
    text = table(tmp_path)
    assert "kernels compiled 3 of 3, compiling, all one after the other 7 s" in text
    assert "longest settle 4000 ms, scan 2000 ms" in text
    assert "compiling code: no such instruction" in text
    ahead.left = 1
    warm_up.run(CPU, tmp_path / "again", 1, tiny=True)
    assert f"{OVER}1 kernels" in capsys.readouterr().out


@pytest.mark.parametrize("failures", [(), ("int8 scan: a bound is too low",)])
def test_selfcheck_is_a_figure(failures: tuple, monkeypatch, tmp_path: Path) -> None:
    class Report:
        seconds = 1.5

        def __bool__(self) -> bool:
            return not failures

    report = Report()
    report.failures = failures
    monkeypatch.setattr("flashmatch.kernels.selfcheck", lambda device: report, raising=False)
    assert selfcheck.run(CPU, tmp_path / "selfcheck") == len(failures)
    [found] = figures.read(tmp_path)
    assert found.value == 1.5
    assert ("a bound is too low" in found.status) == bool(failures)
    assert f"selfcheck: 1.5 s{' (failed' if failures else ''}" in table(tmp_path)


def test_the_probe_notices_a_wrong_answer(monkeypatch, capsys) -> None:
    def oracle(case, queries, prototypes, mask):
        return reference.topk(queries, prototypes, case.shape.k, case.shape.metric, mask)

    few = list(search.cases(tiny=True))[:4]
    monkeypatch.setattr(search, "cases", lambda tiny, tiles: few)
    for name in ("_topk", "_bank"):
        monkeypatch.setattr(search, name, oracle)
    assert search.run(CPU, 9, tiny=True) == 0
    monkeypatch.setattr(search, "_bank", lambda *given: [x.flip(1) for x in oracle(*given)])
    assert search.run(CPU, 9, tiny=True) == 1
    monkeypatch.setattr(search, "_bank", lambda *a: 1 / 0)
    assert search.run(CPU, 9, tiny=True) == 1
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
    c for c in every(tiny, tiles) if c.tile == tiles - 1 > 0 or c.ties or c.shape.metric == "l2"
]
assert search.run(torch.device("cpu"), 9, tiny=True) == 0
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
    capsys.readouterr()
    monkeypatch.setattr(peers, "SECONDS", 30.0)
    assert peers.run(CPU, tmp_path / "short", minutes=0.02) == 0
    found = json.loads((tmp_path / "short" / parts.PEERS).read_text())
    assert found["hangs"] == peers.UNTRIED  # for want of time, which is no verdict on it
    assert OVER in capsys.readouterr().out
