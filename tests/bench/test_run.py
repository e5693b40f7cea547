"""Every provider gets its row whatever happens, within the time there is."""

import csv
import os
import shutil
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from programs import output_of

import commands
from measuring import ledger, timing
from measuring.shapes import Shape
from measuring.table import summary, table
from providers.provider import Provider, Unsupported
from providers.registry import select
from studies.run import Bench, run

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
SHAPE = Shape(5, 211, 17, 7)
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


@pytest.mark.parametrize("seconds", [0.1, 3.0])
def test_a_slow_search_is_called_once(monkeypatch, seconds: float) -> None:
    calls: list[float] = []

    def search(queries):
        calls.append(seconds)
        clock[0] += seconds
        return torch.zeros(5, 7), torch.zeros(5, 7, dtype=torch.int64)

    clock = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(Bench, "_time", lambda *_: None)
    bench = Bench(CPU, [_provider("slow", search)])
    monkeypatch.setattr(bench.rooflines, "limit_ms", lambda *_: 1.0)
    [row] = bench.rows(SHAPE)
    assert (len(calls), row.repeats) == ((1, 1) if seconds == 3 else (3, 0))
    assert row.median_ms == (3000 if seconds == 3 else None)


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


def test_no_shape_is_begun_after_the_time_is_over(capsys) -> None:
    assert list(run(Bench(CPU, []), [SHAPE], minutes=-1)) == []
    assert str(SHAPE) in capsys.readouterr().out


@pytest.mark.parametrize("providers", [[], ["cosine_similarity"]])
def test_a_quick_run_has_the_slowest_only_if_asked(
    monkeypatch: pytest.MonkeyPatch, capsys, providers: list[str]
) -> None:
    monkeypatch.setattr(commands.shapes, "QUICK", (SHAPE,))
    monkeypatch.setattr(commands.ledger, "append", None)  # nothing is recorded
    options = {"device": "cpu", "shapes": [], "quick": True, "base": None, "minutes": 1}
    assert commands.COMMANDS["run"](Namespace(**options, providers=providers)) == 0
    printed = capsys.readouterr().out
    assert ("| torch cosine_similarity+sort |" in printed) == bool(providers)
    assert ("| flashmatch.topk |" in printed) == (not providers)


def test_a_quick_run_has_a_large_shape() -> None:
    assert max(shape.M for shape in commands.shapes.QUICK) > 100_000


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
    assert "| flashmatch.topk | 1 |" in output_of("-c", code, cwd=tmp_path, env=env)
