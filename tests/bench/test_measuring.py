"""The harness has to notice wrong answers, survive broken providers, and record what it saw."""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rows import row

import gate
import ledger
import measure
import shapes
from bars import OURS
from flashmatch.kernels import _reference
from providers import Provider, Unsupported
from registry import PROVIDERS, select
from run import Bench, run
from table import summary, table

ROOT = Path(__file__).resolve().parent.parent
CPU = torch.device("cpu")
SHAPE = shapes.Shape(5, 211, 17, 7)
SEARCHES = [provider for provider in select(CPU) if provider.answers]
NOT_THERE = (
    "PIL",
    "faiss",
    "hypothesis",
    "matplotlib",
    "safetensors",
    "sklearn",
    "torchvision",
    "tqdm",
    "usearch",
)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_truth_is_the_oracle(metric: str, dtype: str) -> None:
    shape = shapes.Shape(5, 211, 17, 7, metric, dtype)
    queries, prototypes = shapes.make(shape, CPU)
    found = gate.truth(queries, prototypes, shape.k, metric)
    assert torch.equal(found.indices, _reference.topk(queries, prototypes, shape.k, metric)[1])


def test_truth_orders_more_ties_than_it_keeps_candidates() -> None:
    queries, prototypes = torch.ones(2, 3), torch.ones(500, 3)
    prototypes[::7] *= -1
    expected = _reference.topk(queries, prototypes, 9)[1]
    assert torch.equal(gate.truth(queries, prototypes, 9, "cosine").indices, expected)


def test_truth_checks_evenly_spaced_queries_of_many(monkeypatch) -> None:
    monkeypatch.setattr(gate, "MAX_CHECKED", 3)
    found = gate.truth(torch.randn(9, 4), torch.randn(40, 4), 2, "dot")
    assert found.checked.tolist() == [0, 4, 8]
    assert found.indices.shape == (3, 2)


def test_agreement_counts_every_wrong_place() -> None:
    queries, prototypes = shapes.make(SHAPE, CPU)
    right = gate.truth(queries, prototypes, SHAPE.k, "cosine")
    assert gate.agreement(right, right.indices) == 1
    wrong = right.indices.clone()
    wrong[2, [0, 1]] = wrong[2, [1, 0]]  # two ranks swapped, the set unchanged
    assert gate.agreement(right, wrong) == pytest.approx(1 - 2 / 35)
    assert gate.agreement(right, right.indices[:, :3]) == 0


def test_agreement_is_printed_as_one_only_when_it_is() -> None:
    assert ledger.exact_share(1.0) == "1"
    assert ledger.exact_share(1 - 1e-12) == "0.999999"


def test_shapes_are_parsed_as_they_are_printed() -> None:
    for shape in (*shapes.CPU, *shapes.GPU):
        assert shapes.parse(str(shape)) == shape
    assert shapes.parse("2x30x4") == shapes.Shape(2, 30, 4)
    with pytest.raises(ValueError, match="got '2x30'"):
        shapes.parse("2x30")


def test_timing_summary() -> None:
    assert measure.summarise([0.004, 0.001, 0.002]) == measure.Timing(2, 1.5, 3, 3)
    assert measure.summarise([0.001]) == measure.Timing(1, 1, 1, 1)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_memory_sees_what_is_freed_before_the_end() -> None:
    def call() -> None:
        torch.ones(12 * measure.MIB).sum()  # 48 MiB of float32

    peak = measure.peak_mib(call, CPU)
    assert peak is None or 47 < peak < 64


def test_searches_are_timed_in_turns() -> None:
    calls: list[str] = []
    searches = {name: (lambda name=name: calls.append(name)) for name in "abc"}
    timings, failures = measure.interleave(searches, dict.fromkeys("abc", 2e-3), CPU, budget=0)
    assert calls == list("abcbcacab")
    assert not failures
    assert {t.repeats for t in timings.values()} == {3}


def test_few_samples_are_spread_over_the_turns_of_many() -> None:
    calls: list[str] = []
    searches = {name: (lambda name=name: calls.append(name)) for name in "ab"}
    measure.interleave(searches, {"a": 8e-3, "b": 2e-3}, CPU, budget=8e-3, least=2)
    assert calls == list("bbabba")


@pytest.mark.parametrize("seconds", [0.0, 3.0])
def test_a_slow_search_is_called_once(monkeypatch, seconds: float) -> None:
    calls: list[float] = []

    def search(queries):
        calls.append(seconds)
        clock[0] += seconds
        return torch.zeros(5, 7), torch.zeros(5, 7, dtype=torch.int64)

    clock = [0.0]
    monkeypatch.setattr(measure.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(Bench, "_time", lambda *_: None)
    bench = Bench(CPU, [_provider("slow", search)])
    monkeypatch.setattr(bench.rooflines, "limit_ms", lambda *_: 1.0)
    [row] = bench.rows(SHAPE)
    assert (len(calls), row.repeats) == ((1, 1) if seconds else (3, 0))
    assert row.median_ms == (3000 if seconds else None)


def _provider(name: str, search) -> Provider:
    return Provider(name, lambda prototypes, shape: search)


def test_every_provider_gets_a_row_whatever_happens(tmp_path: Path) -> None:
    def breaks(queries):
        raise RuntimeError("out of\ncheese")

    def refuses(prototypes, shape):
        raise Unsupported("too tired")

    def lies(queries):
        return torch.zeros(5, 7), torch.zeros(5, 7, dtype=torch.int64)

    providers = [
        *select(CPU, ["flashmatch.topk", "torch matmul+topk"]),
        _provider("breaks", breaks),
        _provider("lies", lies),
        Provider("refuses", refuses),
    ]
    bench = Bench(CPU, providers, budget=0)
    [(_, rows)] = run(bench, [SHAPE], minutes=1)
    by_name = {row.provider: row for row in rows}
    assert by_name["flashmatch.topk"].agreement == 1
    assert by_name["flashmatch.topk"].repeats == 3
    assert by_name["torch matmul+topk"].over_limit > 0
    assert by_name["breaks"].status == "error: RuntimeError: out of cheese"
    assert by_name["lies"].agreement < 0.2
    assert by_name["lies"].median_ms is not None
    assert by_name["refuses"].status == "skipped: too tired"
    assert "too tired" in table(rows)
    assert "flashmatch.topk" in summary(rows)
    path = ledger.append(rows, tmp_path)
    assert ledger.append(rows, tmp_path) == path
    with path.open() as file:
        written = list(csv.DictReader(file))
    assert len(written) == 2 * len(rows)
    assert written[0]["agreement"] == "1"


def test_old_ledgers_keep_their_columns_and_are_only_appended_to(tmp_path: Path) -> None:
    """Rows of GPUs once had a last column, of what a model predicted."""
    path = ledger.append([row(OURS)], tmp_path)
    head, line = path.read_text().splitlines()
    before = f"{head},predicted_ms\n{line},1.5\n"
    path.write_text(before)
    ledger.append([row(OURS, 7.0)], tmp_path)
    assert path.read_text().startswith(before)
    assert ledger.read(path) == [row(OURS), row(OURS, 7.0)]
    after = path.read_text()
    path.write_text(after.replace(",agreement,", ",another,"))
    with pytest.raises(ValueError, match="agreement"):
        ledger.append([row(OURS)], tmp_path)
    assert path.read_text().count("\n") == after.count("\n")


def test_no_shape_is_begun_after_the_time_is_over(capsys) -> None:
    assert list(run(Bench(CPU, []), [SHAPE], minutes=-1)) == []
    assert str(SHAPE) in capsys.readouterr().out


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
@pytest.mark.parametrize("provider", SEARCHES, ids=lambda p: p.name)
def test_providers_find_the_oracles_neighbours(provider: Provider, metric: str) -> None:
    shape = shapes.Shape(5, 211, 17, 7, metric)
    queries, prototypes = shapes.make(shape, CPU)
    try:
        scores, indices = provider.prepare(prototypes, shape)(queries)
    except Unsupported as reason:
        pytest.skip(str(reason))
    expected = _reference.topk(queries, prototypes, shape.k, metric)
    assert torch.equal(indices, expected[1])
    torch.testing.assert_close(scores.float(), expected[0], atol=1e-5, rtol=1e-4)


def test_provider_names_are_unique() -> None:
    assert len({provider.name for provider in PROVIDERS}) == len(PROVIDERS)


def test_runs_from_a_bare_checkout(tmp_path: Path) -> None:
    """As on a borrowed GPU machine: nothing installed but torch and numpy."""
    checkout = tmp_path / "checkout"
    for name in ("bench", "kernels", "retriever", "src"):
        shutil.copytree(ROOT / name, checkout / name)
    shutil.copy(ROOT / "pyproject.toml", checkout)
    code = f"""
import runpy, sys
sys.modules.update(dict.fromkeys({NOT_THERE!r}))
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
sys.argv = ["bench", "run", "--shapes", "2x50x8/3", "--providers", "flashmatch", "--dry-run"]
runpy.run_path({str(checkout / "bench")!r}, run_name="__main__")
"""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "| flashmatch.topk | 1 |" in done.stdout
