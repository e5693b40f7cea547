"""What `bench gpu` does on a borrowed machine, tried without one: parts, rows, bars, the table."""

import argparse
import ast
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rows import row
from screens import needs_int8

import figures
import gpu
import gpu_bars
import gpu_ceilings
import gpu_facts
import gpu_first
import gpu_limits
import gpu_memory
import gpu_parts
import gpu_peers
import gpu_probe
import gpu_stages
import gpu_table
import gpu_tiles
import ledger
import links
import peers_gpu
import shapes
import stages
from bars import OURS
from gpu_parts import Asked, Part
from ledger import LIMIT
from providers import Unsupported
from shapes import Shape

ROOT = Path(__file__).resolve().parent.parent
CPU = torch.device("cpu")
TINY = Shape(5, 211, 17, 7)


@pytest.fixture(autouse=True)
def _no_side_effects(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Links of its own, and no $OUT of the machine's."""
    monkeypatch.setattr(links, "TREE", tmp_path / "links")
    monkeypatch.delenv("OUT", raising=False)


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    gpu.add_arguments(parser)
    return parser.parse_args(words)


def python(code: str, name: str = "stub", minutes: float = 1.0, **fields) -> Part:
    return Part(name, minutes, "a stub", lambda _: ["-c", code], **fields)


# Parts


def test_every_part_fits_a_call_of_ten_minutes_and_is_listed() -> None:
    assert all(part.minutes <= 9 for part in gpu_parts.PARTS)
    assert len(gpu_parts.BY_NAME) == len(gpu_parts.PARTS)
    lines = gpu_parts.listing().splitlines()
    assert [line.split()[0] for line in lines] == list(gpu_parts.BY_NAME)


def test_commands_of_the_parts(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu_parts.shutil, "which", lambda name: f"/bin/{name}")
    asked = Asked(tmp_path, 4.0, ["faiss"])

    def command(name: str) -> list[str]:
        return gpu_parts.BY_NAME[name].arguments(asked, "py")

    for tool in ("memcheck", "racecheck", "initcheck"):
        words = command(tool)
        assert words[:3] == ["/bin/compute-sanitizer", "--tool", tool]
        assert words[words.index("py") + 2 :][:2] == ["probe", "search"]
    k = command("bench-k")
    assert [str(shape) for shape in shapes.GPU_SETS["k"]] == k[k.index("--shapes") + 1 :][:12]
    assert k[k.index("--providers") + 1] == "faiss"
    assert k[k.index("--minutes") + 1] == "3.40"
    assert command("correctness")[:3] == ["py", "-m", "pytest"]
    assert {kind for part in gpu_parts.PARTS for kind in _probe_kinds(part, asked)} == {
        *gpu_parts.PROBES
    } - {"first-call"}


def _probe_kinds(part: Part, asked: Asked) -> list[str]:
    words = part.arguments(asked, "py") if part.command else []
    return [words[words.index("probe") + 1]] if "probe" in words else []


def test_every_set_of_shapes_has_its_part() -> None:
    assert {f"bench-{name}" for name in shapes.GPU_SETS} <= set(gpu_parts.BY_NAME)
    assert len(set(shapes.GPU)) == len(shapes.GPU)
    k, channels = shapes.GPU_SETS["k"], (*shapes.GPU_SETS["channels"], *shapes.GPU_SETS["k"])
    assert {s.k for s in k} == {1, 10, 100, 1000}
    dtypes = {"float32", "float16", "bfloat16"}
    for C in (64, 128, 512, 768, 1536):
        assert {s.dtype for s in channels if (s.Q, s.C) == (1024, C)} == dtypes


def test_a_part_that_fails_crashes_or_hangs_says_so(tmp_path: Path, capsys) -> None:
    crash = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    verdicts = {
        "print('fine')": "ok",
        "raise SystemExit(3)": "failed (3)",
        "1 / 0": "failed (1)",
        crash: "crashed: SIGSEGV",
    }
    for code, verdict in verdicts.items():
        outcome = gpu.run_part(python(code), tmp_path, 1.0)
        assert outcome.verdict == verdict
        assert (outcome.code == 0) == (verdict == "ok")
        kept = json.loads((tmp_path / "stub" / "part.json").read_text())
        assert kept["verdict"] == verdict
    assert "ZeroDivisionError" in capsys.readouterr().out
    assert gpu.run_part(python("raise SystemExit(5)", fine=(0, 5)), tmp_path, 1).code == 0


def test_a_part_that_hangs_is_stopped_with_its_children(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu, "LEAST_MINUTES", 0)
    monkeypatch.setattr(gpu, "GRACE_SECONDS", 0.5)
    child = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)"
    code = f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {child!r}]); "
    code += "print(p.pid, flush=True); p.wait()"
    outcome = gpu.run_part(python(code, minutes=0.02), tmp_path, 1)
    assert (outcome.code, outcome.verdict) == (124, "stopped after 0.0 min")
    log = (tmp_path / "stub" / "log.txt").read_text().splitlines()
    pid = int(log[1])
    for _ in range(50):
        if not _runs(pid):
            break
        time.sleep(0.1)
    assert not _runs(pid)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_no_part_is_begun_without_time_and_each_reports(monkeypatch, tmp_path, capsys) -> None:
    monkeypatch.setattr(gpu, "no_device", lambda: None)
    monkeypatch.setattr(gpu_parts, "BY_NAME", {"a": python("pass", "a"), "b": python("1 / 0", "b")})
    arguments = parsed("--results", str(tmp_path))
    assert gpu.main(arguments) == 1
    out = capsys.readouterr().out
    assert "a: ok" in out
    assert "b: failed (1)" in out
    arguments.minutes = 0.01
    assert gpu.main(arguments) == 1
    assert "a: not run: no time left" in capsys.readouterr().out


def test_logs_are_handed_out(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OUT", str(tmp_path / "out"))
    gpu.run_part(python("print('fine')"), tmp_path / "own", 1)
    assert "fine" in (tmp_path / "out" / "gpu" / "stub" / "log.txt").read_text()


def test_without_a_device_each_part_says_why(monkeypatch, tmp_path: Path, capsys) -> None:
    monkeypatch.setattr(gpu, "no_device", lambda: "no CUDA device: nothing was run")
    assert gpu.main(parsed("--results", str(tmp_path))) == 0
    lines = capsys.readouterr().out.splitlines()
    for part in gpu_parts.PARTS:
        if part.command:
            assert f"{part.name}: no CUDA device: nothing was run" in lines
    assert not list(tmp_path.glob("*/log.txt"))


def test_a_missing_sanitizer_is_said_and_fails_nothing(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu_parts.shutil, "which", lambda _: None)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    outcome = gpu.run_part(gpu_parts.BY_NAME["memcheck"], tmp_path, 9)
    assert (outcome.code, outcome.verdict) == (0, gpu_parts.MISSING)


def test_peers_that_ended_their_process_are_left_out(monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "peers").mkdir()
    verdicts = {"ours": "not tried: no peer", "good": "agreement 1", "bad": "died (-11): boom"}
    (tmp_path / "peers" / gpu_parts.PEERS).write_text(json.dumps(verdicts))
    assert gpu_parts.survivors(tmp_path) == ["ours", "good"]
    command = gpu._command(gpu_parts.BY_NAME["bench-k"], tmp_path, 4, [])
    assert command[command.index("--providers") + 1 :][:3] == ["ours", "good", "--results"]
    assert gpu_parts.survivors(tmp_path / "nowhere") == []


@pytest.mark.parametrize("words", [["--list"], ["--help"], ["--part", "table"]])
def test_runs_as_a_script_from_a_bare_checkout(words: list[str], tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    for name in ("bench", "kernels", "retriever", "adapters", "src"):
        shutil.copytree(ROOT / name, checkout / name)
    shutil.copy(ROOT / "pyproject.toml", checkout)
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"PYTHONSAFEPATH": "1"}
    command = [sys.executable, str(checkout / "bench" / "gpu.py"), *words]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = {"--list": "bench-large", "--help": "--minutes", "--part": "no part has written"}
    assert expected[words[0]] in done.stdout


# Stages


def _kernels() -> set[str]:
    """Every @triton.jit function that can be launched: the others are called by them."""
    trees = [ast.parse(path.read_text()) for path in (ROOT / "kernels").glob("*.py")]
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
    assert [name for name in found if stages.stage_of(name) == "other"] == []
    assert {stages.stage_of(name) for name in found} == set(stages.STAGES) - {"other"}


def test_stages_of_what_torch_launches() -> None:
    assert stages.stage_of("void at::native::mbtopk::radixFindKthValues<float>") == "select"
    assert stages.stage_of("void at::native::sbtopk::gatherTopK<float, unsigned int>") == "select"
    assert stages.stage_of("void cub::DeviceRadixSortOnesweepKernel<...>") == "select"
    assert stages.stage_of("void at::native::vectorized_elementwise_kernel<4, ...>") == "other"
    assert stages.stage_of("Memcpy DtoD (Device -> Device)") == "other"
    sums = stages.by_stage([("scan_kernel", 2.0), ("scan_codes_kernel", 1.0), ("x", 0.5)])
    assert (sums["scan"], sums["other"], sums["repair"]) == (3.0, 0.5, 0.0)


def test_only_what_ran_on_the_device_is_counted() -> None:
    def event(name: str, kind: str, us: float) -> SimpleNamespace:
        span = SimpleNamespace(elapsed_us=lambda: us)
        return SimpleNamespace(
            name=name, device_type=getattr(gpu_stages.DeviceType, kind), time_range=span
        )

    events = [event("scan_kernel", "CUDA", 1500.0), event("aten::topk", "CPU", 9e6)]
    assert gpu_stages.on_device(events) == [("scan_kernel", 1.5)]


def test_stages_are_figures(tmp_path: Path) -> None:
    def kernels(call) -> list[tuple[str, float]]:
        call()
        return [("scan_codes_kernel", 2.0), ("repair_kernel", 0.5)]

    assert gpu_stages.run(CPU, tmp_path, tiny=True, kernels=kernels) == 0
    found = {f.what: f for f in figures.read(tmp_path)}
    assert found["bank: scan"].value == 2.0
    assert found["topk: repair"].value == 0.5
    assert found["bank: kernels"].value == found["int8 product, chunked: kernels"].value == 2.5
    assert found["topk: call"].value > 0
    assert gpu_stages.kernels_of(lambda: torch.ones(3)) == []  # a CPU is no device
    blind = tmp_path / "blind"
    assert gpu_stages.run(CPU, blind, tiny=True, kernels=lambda call: []) == 0
    assert any(f.status == "no kernels were seen" for f in figures.read(blind))


def test_every_tile_is_a_figure_and_the_fastest_are_a_table(monkeypatch, tmp_path: Path) -> None:
    pytest.importorskip("triton")
    from flashmatch.kernels import _triton_tuned
    from flashmatch.kernels._triton_sweep import Case, Trial
    from flashmatch.kernels._triton_tiles import fp16_tiles

    monkeypatch.setenv("FLASHMATCH_CACHE", str(tmp_path / "cache"))
    plain, wide, persistent, _ = fp16_tiles(90)

    def sweep(device, *sizes):
        assert sizes == gpu_tiles.TINY
        trials = Trial(plain, 2e-3), Trial(wide, 1e-3), Trial(persistent, None, "differs")
        yield Case("fp16", 64, 20, (128, 1024), trials[:2], plain)
        yield Case("int8", 64, 20, (128, 1024), trials[1:], plain)

    assert gpu_tiles.run(CPU, tmp_path, tiny=True, sweep=sweep) == 1
    found = figures.read(tmp_path)
    assert [f.value for f in found] == [2.0, 1.0, 1.0, None]
    assert found[-1].status == "differs"
    line = "scan of topk, 20 queries 128x1024x64/10/cosine/float16: tile 0 2 ms, tile 1 1 ms"
    assert line in gpu_table.table(tmp_path).splitlines()
    table = _triton_tuned.read(next(tmp_path.glob("tiles-cpu-triton-*.json")))
    assert table is not None
    assert [row.tile for row in table.rows] == [wide, wide]
    assert not (tmp_path / "cache").exists()

    def none(*_):
        raise RuntimeError("no tile at all")
        yield

    assert gpu_tiles.run(CPU, tmp_path / "none", tiny=True, sweep=none) == 1
    assert "no tile at all" in figures.read(tmp_path / "none")[0].status
    assert "scan of the rest : tile any " in gpu_table.table(tmp_path / "none")


# What the probes find


def test_ceilings_memory_and_facts_on_a_cpu(monkeypatch, tmp_path: Path) -> None:
    pytest.importorskip("triton")
    empty = SimpleNamespace(empty_kernel={(1,): lambda argument: None})
    monkeypatch.setitem(sys.modules, "gpu_empty", empty)
    assert gpu_ceilings.run(CPU, tmp_path / "ceilings", tiny=True) == 0
    assert gpu_memory.run(CPU, tmp_path / "memory", tiny=True) == 0
    found = {f.what: f for f in figures.read(tmp_path)}
    assert found["int8 product"].unit == "TOP/s"
    assert all(f.value > 0 for f in found.values() if f.part == "ceilings")
    assert found["bank"].unit == gpu_memory.WITHIN
    assert gpu_facts.run(CPU, tmp_path / "facts") == 0
    kept = json.loads((tmp_path / "facts" / "facts.json").read_text())
    assert "flashmatch.topk" in kept["providers"]
    text = gpu_table.table(tmp_path)
    assert "int8, chunked" in text
    assert "memory: bank" in text
    assert "torch " in text


def test_a_ceiling_that_cannot_be_had_is_a_figure(monkeypatch, tmp_path: Path) -> None:
    def broken(*_) -> None:
        raise RuntimeError("no\nsuch unit")

    monkeypatch.setattr(gpu_ceilings, "int8_product", broken)
    monkeypatch.setattr(gpu_ceilings, "_empty_kernel", gpu_ceilings._tiny_op)
    assert gpu_ceilings.run(CPU, tmp_path, tiny=True) == 1
    found = [f for f in figures.read(tmp_path) if f.what == "int8 product"]
    assert {f.status for f in found} == {"error: RuntimeError: no such unit"}
    assert "RuntimeError" in gpu_table.table(tmp_path)


def test_a_search_that_holds_too_much_fails_its_part(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu_memory, "peak_mib", lambda call, device: 1e6)
    assert gpu_memory.run(CPU, tmp_path, tiny=True) == 1
    over = {f.what for f in figures.read(tmp_path) if f.status.startswith("over")}
    assert over == {"topk", "bank"}  # building a bank is not a search


def test_driver_facts(monkeypatch) -> None:
    def smi(command, **_):
        name = command[1].removeprefix("--query-gpu=")
        known = {"driver_version": "580.1\n", "clocks.max.sm": "1980 MHz\n"}
        return SimpleNamespace(returncode=int(name not in known), stdout=known.get(name, "no"))

    monkeypatch.setattr(gpu_facts.shutil, "which", lambda name: name)
    monkeypatch.setattr(gpu_facts.subprocess, "run", smi)
    assert gpu_facts.smi() == {"driver_version": "580.1", "clocks.max.sm": "1980 MHz"}
    monkeypatch.setattr(gpu_facts.shutil, "which", lambda name: None)
    assert gpu_facts.smi() == {"nvidia-smi": "not installed"}


def test_first_calls_cold_and_warm(monkeypatch, tmp_path: Path, capsys) -> None:
    caches = []

    def run(command, env, **_):
        caches.append(env["TRITON_CACHE_DIR"])
        assert command[2:4] == ["probe", "first-call"]
        seconds = 2.0 if len(caches) == 1 else 0.1
        found = {"compiled": {"scan_kernel": seconds}, "searches": {"topk 1x2x3": [3.0, 0.5]}}
        return SimpleNamespace(returncode=0, stdout=f"x\n{gpu_first.MARK}{json.dumps(found)}\n")

    monkeypatch.setattr(gpu_first.subprocess, "run", run)
    assert gpu_first.run(CPU, tmp_path) == 0
    assert caches[0] == caches[1]
    assert not Path(caches[0]).exists()
    found = {(f.what, f.shape): f.value for f in figures.read(tmp_path)}
    assert found["compiling, cold", "all kernels"] == 2000
    assert found["compiling, warm", "scan_kernel"] == 100
    assert found["first call, warm", "topk 1x2x3"] == 3000
    assert "compiling, cold all kernels: 2000 ms" in gpu_table.table(tmp_path)


def test_first_calls_listen_to_the_compiler(monkeypatch, capsys) -> None:
    knobs = pytest.importorskip("triton").knobs
    monkeypatch.setattr(knobs.compilation, "listener", None)
    assert gpu_first.child(CPU, tiny=True) == 0
    listener = knobs.compilation.listener
    for hit in (False, True):
        times = SimpleNamespace(total=5e5)
        listener(src=None, metadata={"name": "k"}, metadata_group={}, times=times, cache_hit=hit)
    out, err = capsys.readouterr()
    found = json.loads(out.removeprefix(gpu_first.MARK))
    assert len(found["searches"]) == 4
    assert err.splitlines() == ["k: 0.50 s", "k: 0.50 s (found)"]


def test_the_probe_notices_a_wrong_answer(monkeypatch, capsys) -> None:
    from flashmatch.kernels import _reference

    def search(queries, prototypes, k, metric, mask):
        return _reference.topk(queries, prototypes, k, metric, mask)

    few = list(gpu_probe.cases(tiny=True))[:4]
    monkeypatch.setattr(gpu_probe, "cases", lambda tiny, tiles: few)
    for name in ("_topk", "_bank"):
        monkeypatch.setattr(gpu_probe, name, search)
    assert gpu_probe.run(CPU, tiny=True) == 0
    monkeypatch.setattr(gpu_probe, "_bank", lambda *a: [x.flip(1) for x in search(*a)])
    assert gpu_probe.run(CPU, tiny=True) == 1
    monkeypatch.setattr(gpu_probe, "_bank", lambda *a: 1 / 0)
    assert gpu_probe.run(CPU, tiny=True) == 1
    assert (
        "bank 1x33x1/5/cosine/float32, mask of 0 dimensions, tile 0: error: ZeroDivisionError"
        in (capsys.readouterr().out)
    )


_WATCHED = """
import sys
sys.path.insert(0, {bench!r})
import torch
from triton.runtime.interpreter import InterpretedFunction
import gpu_probe

launched, launch = set(), InterpretedFunction.__getitem__
def watched(kernel, grid):
    launched.add(kernel.fn.__name__)
    return launch(kernel, grid)
InterpretedFunction.__getitem__ = watched
every = gpu_probe.cases
gpu_probe.cases = lambda tiny, tiles: [
    c for c in every(tiny, tiles) if c.tile == tiles - 1 > 0 or c.shape.metric in ("l2", "ties")
]
assert gpu_probe.run(torch.device("cpu"), tiny=True) == 0
print("launched", *launched)
"""


def test_what_a_sanitizer_watches_is_every_kernel_and_right() -> None:
    """Interpreted, in a process of its own."""
    pytest.importorskip("triton")
    code = _WATCHED.format(bench=str(ROOT / "bench"))
    env = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "error" not in done.stdout
    assert _kernels() <= set(done.stdout.splitlines()[-1].split())


def test_a_peer_that_dies_is_news_only(monkeypatch, tmp_path: Path, capsys) -> None:
    from registry import select

    stub = tmp_path / "bench"
    stub.write_text(
        "import os, sys\nname = sys.argv[-1]\n"
        "if name == 'dies': os.abort()\n"
        "if name == 'hangs': import time; time.sleep(60)\n"
        "print(f'| {name} | 0.99 | 12.5 | 1 to 2 | 3 | 4 | ok |')\n"
    )
    monkeypatch.setattr(gpu_peers, "ROOT", tmp_path)
    monkeypatch.setattr(gpu_peers, "SECONDS", 1.5)
    template = select(CPU, ["flashmatch.topk"])[0]
    peers = [replace(template, name=name, module="json") for name in ("good", "dies", "hangs")]
    monkeypatch.setattr(gpu_peers, "select", lambda device: [template, *peers])
    assert gpu_peers.run(CPU, tmp_path / "own" / "peers", minutes=1) == 0
    found = json.loads((tmp_path / "own" / "peers" / gpu_parts.PEERS).read_text())
    assert found["good"] == "agreement 0.99, 12.5 ms; ok"
    assert found["dies"].startswith(f"died (-{int(signal.SIGABRT)})")
    assert found["hangs"].startswith("hung")
    assert gpu_parts.survivors(tmp_path / "own") == [template.name, "good"]


# Peers


def test_tf32_is_set_for_the_search_and_restored(monkeypatch) -> None:
    seen = []

    def product(prototypes, shape):
        def search(queries):
            seen.append(torch.get_float32_matmul_precision())
            return torch.topk(queries @ prototypes.T, shape.k)

        return search

    monkeypatch.setattr(peers_gpu, "_best_of_torch", product)
    queries, prototypes = shapes.make(TINY, CPU)
    before = torch.get_float32_matmul_precision()
    peers_gpu._tf32(prototypes, TINY)(queries)
    assert seen == ["high"]
    assert torch.get_float32_matmul_precision() == before
    with pytest.raises(Unsupported):
        peers_gpu._tf32(prototypes.half(), replace(TINY, dtype="float16"))


def test_bf16_searches_in_bf16() -> None:
    queries, prototypes = shapes.make(TINY, CPU)
    scores, indices = peers_gpu._bf16(prototypes, TINY)(queries)
    assert scores.dtype == torch.bfloat16
    exact = torch.cosine_similarity(queries[:, None], prototypes[None], dim=-1)
    assert torch.allclose(scores.float(), exact.gather(1, indices), atol=0.02)
    with pytest.raises(Unsupported):
        peers_gpu._bf16(prototypes.bfloat16(), replace(TINY, dtype="bfloat16"))


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_flashlib_by_its_signature(monkeypatch, metric: str) -> None:
    """x, c, k to squared distances and int32 indices, nearest first."""

    def flash_knn(x, c, k):
        found = torch.cdist(x, c).square().topk(k, largest=False)
        return found.values, found.indices.int()

    monkeypatch.setitem(sys.modules, "flashlib", SimpleNamespace(flash_knn=flash_knn))
    _finds_the_right(peers_gpu._flashlib, replace(TINY, metric=metric))


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_cuvs_by_its_signature(monkeypatch, metric: str) -> None:
    def search(index, queries, k, resources):
        prototypes, metric = index
        if metric == "sqeuclidean":
            return torch.cdist(queries, prototypes).square().topk(k, largest=False)
        if metric == "cosine":
            scores = torch.cosine_similarity(queries[:, None], prototypes[None], dim=-1)
            return (1 - scores).topk(k, largest=False)
        return (queries @ prototypes.T).topk(k)

    brute_force = SimpleNamespace(
        build=lambda dataset, metric, resources: (dataset, metric), search=search
    )
    resources = lambda stream: SimpleNamespace(sync=lambda: None)  # noqa: E731
    monkeypatch.setitem(sys.modules, "cuvs", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "cuvs.common", SimpleNamespace(Resources=resources))
    monkeypatch.setitem(sys.modules, "cuvs.neighbors", SimpleNamespace(brute_force=brute_force))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(cuda_stream=0))
    _finds_the_right(peers_gpu._cuvs, replace(TINY, metric=metric))


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_certex_by_its_signature(monkeypatch, metric: str) -> None:
    class Index:
        def __init__(self, dim, metric="l2"):
            assert (dim, metric) == (TINY.C, {"dot": "ip"}.get(wanted, wanted))
            self.metric = metric

        def add(self, x):
            self.x = x

        def search(self, q, k=10):
            if self.metric == "l2":
                return torch.cdist(q, self.x).square().topk(k, largest=False)
            if self.metric == "cosine":
                return torch.cosine_similarity(q[:, None], self.x[None], dim=-1).topk(k)
            return (q @ self.x.T).topk(k)

    wanted = metric
    monkeypatch.setitem(sys.modules, "certex", SimpleNamespace(Index=Index))
    _finds_the_right(peers_gpu._certex, replace(TINY, metric=metric))


def _finds_the_right(prepare, shape: Shape) -> None:
    from flashmatch.kernels import _reference

    queries, prototypes = shapes.make(shape, CPU)
    scores, indices = prepare(prototypes, shape)(queries)
    expected = _reference.topk(queries, prototypes, shape.k, shape.metric)
    assert indices.dtype == torch.int64
    assert torch.equal(indices, expected[1])
    torch.testing.assert_close(scores, expected[0], atol=1e-5, rtol=1e-5)


@needs_int8
def test_limits_multiply_the_whole_shape(monkeypatch) -> None:
    monkeypatch.setattr(gpu_limits, "BUFFER_BYTES", 4 * 32 * 100)
    shape = Shape(5, 1001, 17)
    q, p = gpu_limits._codes(shape, CPU)
    assert (q.shape, p.shape) == ((32, 32), (1008, 32))  # what cuBLASLt takes
    products = (q.long() @ p.long().T).int()
    assert torch.equal(gpu_limits.int8_product(shape, CPU)(), products)
    assert torch.equal(gpu_limits.int8_product_chunked(shape, CPU)(), products[:, 768:])
    queries, prototypes = shapes.make(shape, CPU)
    for limit in gpu_limits.GPU_LIMITS:
        assert not limit.answers
        assert limit.prepare(prototypes, shape)(queries).shape[1] >= 200


# Bars and the table


def _bench_rows(ours: float = 10.0, agreement: float = 1.0) -> list:
    at = {"Q": 1024, "M": 262144, "C": 512}
    return [
        row(OURS, ours, 0.5, agreement=agreement, **at),
        row("flashmatch.topk", 25.0, **at),
        row("coarse", 15.0, agreement=0.7, **at),
        row("peer", 20.0, agreement=0.995, **at),
        row("failed", None, status="error: no", **at),
        row("limit", 1.0, agreement=None, status=LIMIT, **at),
    ]


@pytest.mark.parametrize(
    ("ours", "verdict", "near"),
    [(14.9, "held", "held"), (16.0, "missed", "held"), (21.0, "missed", "missed")],
)
def test_faster_than_every_peer_whatever_its_agreement(ours: float, verdict: str, near: str):
    [line] = gpu_bars.faster(_bench_rows(ours), OURS)
    assert line.peer.provider == "coarse"
    assert line.near.provider == "peer"
    assert (line.verdict, line.verdict_near) == (verdict, near)


def test_nothing_is_held_that_is_not_exact_or_not_timed() -> None:
    [line] = gpu_bars.faster(_bench_rows(1.0, agreement=0.999999), OURS)
    assert line.verdict == line.verdict_near == "missed: not exact"
    untimed = [row(OURS, None, status="error: boom"), row("peer", 20.0)]
    [line] = gpu_bars.faster(untimed, OURS)
    assert line.verdict == "error: boom"
    [line] = gpu_bars.faster([row(OURS)], OURS)
    assert line.verdict == gpu_bars.ALONE
    assert gpu_bars.faster([row("peer")], OURS) == []


def _stage_figures(shape: Shape, scan: float, *vendor: float) -> list:
    made = [figures.figure(CPU, "stages", "bank: scan", shape, scan, "ms")]
    made.append(figures.figure(CPU, "stages", "bank: kernels", shape, scan + 1, "ms"))
    made.append(figures.figure(CPU, "stages", "bank: call", shape, scan + 2, "ms"))
    return made + [
        figures.figure(CPU, "stages", f"{name}: kernels", shape, value, "ms")
        for name, value in zip(stages.VENDOR, vendor, strict=False)
    ]


@pytest.mark.parametrize(("scan", "verdict"), [(11.5, "held"), (11.6, "missed")])
def test_the_scan_is_held_against_the_faster_product(scan: float, verdict: str) -> None:
    wide, narrow = Shape(1024, 262144, 512), Shape(1024, 262144, 128)
    found = _stage_figures(wide, scan, 30.0, 10.0) + _stage_figures(narrow, 1.0, 1.0, 1.0)
    [line] = gpu_bars.scans(found)
    assert (line.shape, line.vendor, line.verdict) == (wide, 10.0, verdict)
    assert gpu_bars.scans(_stage_figures(wide, scan)) == []


def test_the_final_table_and_the_bars_from_rows(tmp_path: Path, capsys) -> None:
    ledger.append(_bench_rows(), tmp_path / "bench-k")
    shape = Shape(1024, 262144, 512)
    figures.write(_stage_figures(shape, 11.0, 12.0, 10.0), tmp_path / "stages")
    outcome = {"name": "bench-k", "code": 0, "minutes": 1.5, "verdict": "ok"}
    (tmp_path / "bench-k" / "part.json").write_text(json.dumps(outcome))
    text = gpu_table.table(tmp_path)
    assert "bench-k: ok (1.5 min)" in text
    assert f"scan {shape}: 11 ms, 1.10 of the vendor's 10 ms: held" in text
    assert f"{shape}: bank 10 1.50x held; topk 25 0.60x MISSED; coarse 15 (0.7)" in text
    assert "kernels 12 ms" in text
    full = gpu_bars.report(tmp_path)
    assert "coarse 15 (0.700000) | 1.50 (1.43 to 1.58) | held" in full
    assert "| 11 | 10 | 1.10 | held |" in full
    assert "1 of 1 shapes" in full


def test_the_table_of_everything_fits_the_end_of_a_console(tmp_path: Path) -> None:
    for shape in shapes.GPU:
        at = {"Q": shape.Q, "M": shape.M, "C": shape.C, "k": shape.k}
        at |= {"metric": shape.metric, "dtype": shape.dtype}
        rows = [row(OURS, **at), row("flashmatch.topk", **at), row("torch matmul+topk, T", **at)]
        ledger.append(rows, tmp_path / "bench-k")
    text = gpu_table.table(tmp_path)
    assert len(text) < 11_000
    assert str(shapes.GPU[-1]) in text
    assert max(map(len, text.splitlines())) <= gpu_table.WIDTH


def test_rows_are_recorded_when_asked(monkeypatch, tmp_path: Path) -> None:
    ledger.append(_bench_rows(), tmp_path / "bench-k")
    monkeypatch.setattr(ledger.append, "__defaults__", (tmp_path / "kept", ""))
    assert gpu.main(parsed("--results", str(tmp_path), "--record")) == 0
    [path] = (tmp_path / "kept").glob("*.csv")
    assert len(ledger.read(path)) == 6
