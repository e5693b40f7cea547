"""Growth keeps its rows in a ledger, stops who is too slow, and draws the last run."""

import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from rows import row

from measuring import ledger
from measuring.shapes import Shape
from providers.provider import Provider
from studies import growth, growth_plot

BANK, TOPK, ORIGINAL = growth.PROVIDERS[0], growth.PROVIDERS[1], growth.PROVIDERS[-1]
STOPS = {"median_ms": None, "status": "skipped: it would take 96 GiB"}


def _rows() -> list[ledger.Row]:
    sizes = [(64, 1000), (64, 131072), (64, 10**6), (1, 131072), (512, 131072)]
    rows = [row(BANK, 1.0 + Q * M // 10**6, 0.5, Q=Q, M=M) for Q, M in sizes]
    rows += [row(TOPK, 2.0 + Q * M // 10**6, 0.5, Q=Q, M=M, agreement=0.5) for Q, M in sizes]
    rows += [
        row(ORIGINAL, Q=64, M=1000),
        *(row(ORIGINAL, Q=64, M=M, **STOPS) for _, M in sizes[1:3]),
    ]
    return rows


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    rows = [*_rows(), row(BANK, agreement=None, peak_mib=None)]
    assert ledger.read(ledger.append(rows, tmp_path, growth.KIND)) == rows
    assert [path.name for path in tmp_path.iterdir()] == ["abacus-1-threads-growth.csv"]


def test_last_run_is_of_one_commit_and_newest() -> None:
    old, first, again = row(BANK, commit="old"), row(BANK, 5.0), row(BANK, 7.0)
    assert growth.last_run([old, row(TOPK, commit="old"), first, again]) == [again]


def test_axes_share_their_middle_and_can_be_left_out() -> None:
    prototypes, queries = growth.axes(None, None)
    assert {(s.Q, s.C, s.k) for s in prototypes} == {(64, 128, 10)}
    assert (prototypes[0].M, prototypes[-1].M) == (10_000, 2_000_000)
    assert {(s.M, s.C, s.k) for s in queries} == {(131072, 128, 10)}
    assert (queries[0].Q, queries[-1].Q) == (1, 4096)
    assert growth.axes([], [9, 2])[1] == [Shape(2, 131072, 128), Shape(9, 131072, 128)]


def test_who_is_too_slow_stops_and_says_so(monkeypatch) -> None:
    def prepare(seconds, prototypes, shape):
        def search(queries):
            time.sleep(seconds)
            found = torch.topk(queries @ prototypes.T, shape.k)
            return found.values, found.indices

        return search

    providers = [Provider("slow", partial(prepare, 0.2)), Provider("quick", partial(prepare, 0))]
    monkeypatch.setattr(growth, "SLOW_MS", 150)
    axis = [Shape(2, M, 8, 3) for M in (50, 60, 70)]
    status = [[r.status for r in rows] for _, rows in growth.measure(axis, providers, minutes=1)]
    assert status == [["ok", "ok"], *[["skipped: 2 x 50 took 0 s", "ok"]] * 2]


def test_caption_says_what_was_measured_and_who_stops_where() -> None:
    rows = [r for r in _rows() if r.Q == 64]
    caption = growth_plot.caption(rows, "M")
    for part in ("Q = 64, C = 128, k = 10, cosine", "Abacus", "commit abcdef", "faiss 1.0"):
        assert part in growth_plot.caption([*rows, row("faiss IndexFlat")], "M")
    assert f"{ORIGINAL} stops at 131,072: it would take 96 GiB" in caption
    assert f"{BANK} stops" not in caption


def test_both_axes_are_drawn(tmp_path: Path) -> None:
    image = pytest.importorskip("matplotlib.image")
    names = ["prototypes", "queries"]
    figures = growth_plot.plot(_rows(), tmp_path / "growth")
    assert [figure.name for figure in figures] == [f"growth-{name}.png" for name in names]
    for figure in figures:
        pixels = image.imread(figure)
        assert pixels.shape[1] == 1600
        assert pixels[..., :3].std() > 0.1


def test_lines_are_drawn_through_the_numbers(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    left, right = Figure().subplots(1, 2)
    rows = [row(TOPK, M / 100, 1.0, M=M, peak_mib=M - 1000.0, agreement=0.5) for M in (1000, 3000)]
    rows += [replace(rows[0], M=9000, peak_mib=None)]
    growth_plot._lines(left, right, rows, "M")
    assert left.lines[0].get_xydata().tolist() == [[1000, 10], [3000, 30], [9000, 10]]
    assert right.lines[0].get_xydata().tolist() == [[1000, growth_plot.FLOOR_MIB], [3000, 2000]]
    assert left.lines[0].get_label() == f"{TOPK} (0.500000 of the indices)"


def test_one_size_is_no_axis(tmp_path: Path) -> None:
    assert growth_plot.plot([row(BANK), row(TOPK)], tmp_path / "growth") == []
