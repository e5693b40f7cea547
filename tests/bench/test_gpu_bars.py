"""The bars on a GPU and the table of everything, from rows that nobody measured."""

import json
from pathlib import Path

import pytest
import torch
from rows import row

from gpu import bars, figures, table
from gpu.kernel_stages import VENDOR
from measuring import ledger, shapes
from measuring.ledger import LIMIT
from measuring.shapes import Shape
from providers.ours import BANK, TOPK

CPU = torch.device("cpu")


def _bench_rows(ours: float = 10.0, agreement: float = 1.0) -> list:
    at = {"Q": 1024, "M": 262144, "C": 512}
    return [
        row(BANK, ours, 0.5, agreement=agreement, **at),
        row(TOPK, 25.0, **at),
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
    [line] = bars.faster(_bench_rows(ours), BANK)
    assert line.peer.provider == "coarse"
    assert line.near.provider == "peer"
    assert (line.verdict, line.verdict_near) == (verdict, near)


def test_nothing_is_held_that_is_not_exact_or_not_timed() -> None:
    [line] = bars.faster(_bench_rows(1.0, agreement=0.999999), BANK)
    assert line.verdict == line.verdict_near == "missed: not exact"
    untimed = [row(BANK, None, status="error: boom"), row("peer", 20.0)]
    [line] = bars.faster(untimed, BANK)
    assert line.verdict == "error: boom"
    [line] = bars.faster([row(BANK)], BANK)
    assert line.verdict == bars.ALONE
    assert bars.faster([row("peer")], BANK) == []


def _stage_figures(shape: Shape, scan: float, *vendor: float) -> list:
    made = [figures.figure(CPU, "stages", "bank: scan", shape, scan, "ms")]
    made.append(figures.figure(CPU, "stages", "bank: kernels", shape, scan + 1, "ms"))
    made.append(figures.figure(CPU, "stages", "bank: call", shape, scan + 2, "ms"))
    return made + [
        figures.figure(CPU, "stages", f"{name}: kernels", shape, value, "ms")
        for name, value in zip(VENDOR, vendor, strict=False)
    ]


@pytest.mark.parametrize(("scan", "verdict"), [(11.5, "held"), (11.6, "missed")])
def test_the_scan_is_held_against_the_faster_product(scan: float, verdict: str) -> None:
    wide, narrow = Shape(1024, 262144, 512), Shape(1024, 262144, 128)
    found = _stage_figures(wide, scan, 30.0, 10.0) + _stage_figures(narrow, 1.0, 1.0, 1.0)
    [line] = bars.scans(found)
    assert (line.shape, line.vendor, line.verdict) == (wide, 10.0, verdict)
    assert bars.scans(_stage_figures(wide, scan)) == []


def test_the_final_table_and_the_bars_from_rows(tmp_path: Path, capsys) -> None:
    ledger.append(_bench_rows(), tmp_path / "bench-k")
    shape = Shape(1024, 262144, 512)
    figures.write(_stage_figures(shape, 11.0, 12.0, 10.0), tmp_path / "stages")
    outcome = {"name": "bench-k", "code": 0, "minutes": 1.5, "verdict": "ok"}
    (tmp_path / "bench-k" / "part.json").write_text(json.dumps(outcome))
    text = table.table(tmp_path)
    assert "bench-k: ok (1.5 min)" in text
    assert f"scan {shape}: 11 ms, 1.10 of the vendor's 10 ms: held" in text
    assert f"{shape}: bank 10 1.50x held; topk 25 0.60x MISSED; coarse 15 (0.7)" in text
    assert "kernels 12 ms" in text
    full = bars.report(tmp_path)
    assert "coarse 15 (0.700000) | 1.50 (1.43 to 1.58) | held" in full
    assert "| 11 | 10 | 1.10 | held |" in full
    assert "1 of 1 shapes" in full


def test_the_table_of_everything_fits_the_end_of_a_console(tmp_path: Path) -> None:
    for shape in shapes.GPU:
        at = {"Q": shape.Q, "M": shape.M, "C": shape.C, "k": shape.k}
        at |= {"metric": shape.metric, "dtype": shape.dtype}
        rows = [row(BANK, **at), row(TOPK, **at), row("torch matmul+topk, T", **at)]
        ledger.append(rows, tmp_path / "bench-k")
    text = table.table(tmp_path)
    assert len(text) < 11_000
    assert str(shapes.GPU[-1]) in text
    assert max(map(len, text.splitlines())) <= table.WIDTH
