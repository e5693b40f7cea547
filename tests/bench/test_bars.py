"""A bar is held by the right row against the right rival, by the bars of the machine's class."""

import os

import pytest
import torch
from programs import output_of
from rows import row

from measuring.instructions import LIMITS, limited_to
from measuring.ledger import LIMIT
from measuring.links import ROOT
from measuring.ratios import ratio
from measuring.shapes import Shape
from providers.limits import CHUNK_BY_CHUNK, ONE_CALL
from providers.ours import BANK, TOPK
from studies import bars
from studies.bars import AVX2, BEFORE, FAISS, RAW, VNNI, Bar

CPU = torch.device("cpu")
SHAPE = Shape(64, 131072, 128)
BAR = Bar(SHAPE, bank={AVX2: 2, VNNI: 3}, topk={AVX2: 1.5}, over=2)
CELLS = ("shape", "bank", "rival", "faster", "bar", "held")
CELLS += ("topk", "torch", "topk faster", "topk bar", "topk held")


def _line(*rows, bar: Bar = BAR, where: str = VNNI) -> dict[str, str]:
    cells = bars.line(bar, {r.provider: r for r in rows}, where)
    assert len(cells) == len(bars.HEAD)
    return dict(zip(CELLS, cells, strict=True))


def _over(*rows) -> tuple[str, ...]:
    cells = bars.over_line(BAR, {r.provider: r for r in rows})
    assert len(cells) == len(bars.OVER_HEAD)
    return cells


def _limit(name: str, median_ms: float):
    return row(name, median_ms, agreement=None, status=LIMIT)


def test_ratio_leaves_open_what_the_quartiles_leave_open() -> None:
    found = ratio(row("peer", 30.0, 6.0), row(BANK, 10.0, 2.0))
    assert (found.median, found.low, found.high) == (3.0, 24 / 12, 36 / 8)
    assert str(found) == "3.00 (2.00 to 4.50)"


@pytest.mark.parametrize(
    ("ours", "where", "verdict"),
    [
        (10.0, VNNI, "held"),
        (10.1, VNNI, "missed"),
        (15.0, AVX2, "held"),
        (15.1, AVX2, "missed"),
        (1.0, "", "no bar"),
    ],
)
def test_a_bank_against_the_fastest_rival(ours: float, where: str, verdict: str) -> None:
    others = row(BEFORE, 90.0), row(FAISS, 30.0), row(TOPK, 11.0), row(RAW, 12.0), row("x", 1.0)
    line = _line(row(BANK, ours), *others, where=where)
    assert line["rival"] == "faiss IndexFlat 30 (1)"
    assert line["held"] == verdict
    assert line["bar"] == {VNNI: ">= 3", AVX2: ">= 2", "": ""}[where]


@pytest.mark.parametrize(("ours", "verdict"), [(10.0, "held"), (10.1, "missed")])
def test_topk_against_torch_given_the_same(ours: float, verdict: str) -> None:
    rows = row(TOPK, ours), row(RAW, 15.0), row(BEFORE, 1.0), row(FAISS, 1.0), row(BANK, 1.0)
    line = _line(*rows, where=AVX2)
    assert (line["torch"], line["topk bar"], line["topk held"]) == ("15 (1)", ">= 1.5", verdict)
    assert _line(*rows)["topk held"] == "no bar"  # of a class that has none
    assert _line(*rows)["topk faster"] == line["topk faster"]  # which is shown all the same


def test_of_several_rivals_one_counts_that_is_nearly_right() -> None:
    nearly, wrong = row(BEFORE, 40.0, agreement=0.995), row(FAISS, 1.0, agreement=0.98)
    assert _line(row(BANK), nearly, wrong)["rival"] == f"{BEFORE} 40 (0.995000)"


def test_the_only_rival_counts_as_it_is() -> None:
    """torch's product of bf16 finds other neighbours, and is what people run."""
    bar = Bar(SHAPE, {VNNI: 1.2}, {VNNI: 1.2}, rivals=(BEFORE,))
    rows = row(BEFORE, 12.0, agreement=0.8), row(RAW, 11.9, agreement=0.8), row(FAISS, 1.0)
    line = _line(row(BANK), row(TOPK), *rows, bar=bar)
    assert line["rival"] == f"{BEFORE} 12 (0.800000)"
    assert (line["held"], line["topk held"]) == ("held", "missed")


def test_nothing_is_held_with_one_wrong_place() -> None:
    wrong = {"agreement": 0.999999}
    rows = row(BANK, 1.0, **wrong), row(TOPK, 1.0, **wrong), row(RAW, 9.0), row(BEFORE, 9.0)
    for where in (VNNI, AVX2):
        line = _line(*rows, where=where)
        assert line["held"] == line["topk held"] == "missed: not exact"
    assert _over(rows[0], _limit(ONE_CALL, 9.0))[-1] == "missed: not exact"


def test_what_was_not_measured_is_not_held() -> None:
    for rows in ([], [row(BANK, None, status="skipped: too tired")]):
        line = _line(*rows, row(TOPK), where=AVX2)
        assert line["held"] == ""
        assert line["topk held"] == "nothing to compare with"
    assert line["bank"] == "skipped: too tired"
    line = _line(row(BANK), row(TOPK), row(RAW, None, status="skipped: too large"), where=AVX2)
    assert line["held"] == line["topk held"] == "nothing to compare with"
    assert line["torch"] == "skipped: too large"


@pytest.mark.parametrize(("ours", "verdict"), [(10.0, "held"), (10.1, "missed")])
@pytest.mark.parametrize(("one", "chunks"), [(50.0, 5.0), (5.0, 50.0)])
def test_near_the_stricter_of_the_limits(
    one: float, chunks: float, ours: float, verdict: str
) -> None:
    cells = _over(row(BANK, ours), _limit(ONE_CALL, one), _limit(CHUNK_BY_CHUNK, chunks))
    assert cells[2].startswith(f"{ours / one:.2f} ")
    assert cells[3].startswith(f"{ours / chunks:.2f} ")
    assert cells[-1] == verdict
    assert _over(row(BANK))[-1] == "nothing to compare with"


def test_report_has_the_bars_that_were_measured() -> None:
    at = {"Q": 1, "M": 262144, "C": 512}
    rows = [
        row(BANK, 10.0, **at),
        row(BEFORE, 35.0, **at),
        row(TOPK, 10.0, **at),
        row(RAW, 29.0, **at),
        row(BANK, k=9, **at),
    ]
    report = bars.report(rows, VNNI)
    assert report.count("\n| 1 x") == 2  # and beside the products alone
    assert "| 3.50 (3.50 to 3.50) | >= 3.5 | held |" in report
    assert (
        "1 held, 0 missed, by the bars of a CPU with VNNI. Abacus (1 threads), torch 2.0" in report
    )
    limited = bars.report(rows, AVX2)
    assert limited.count("\n| 1 x") == 1
    assert "| 3.50 (3.50 to 3.50) | >= 2 | held |" in limited
    assert "| 2.90 (2.90 to 2.90) | >= 3 | missed |" in limited
    assert "1 held, 1 missed, by the bars of a CPU without VNNI" in limited
    assert "0 held, 0 missed" in bars.report(rows, "")
    assert bars.report([row(BANK, k=9)]) == ""


def test_a_goal_stands_beside_a_bar_below_it() -> None:
    [bar] = bars.chosen([Shape(1024, 131072, 512, k=100)])
    assert _line(bar=bar, where=AVX2)["bar"] == ">= 0.9, goal 1"
    assert _line(bar=bar)["bar"] == ">= 1.4"


def test_who_is_measured_is_who_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slow peers are left out where they are no rivals; the products where they take seconds."""
    small, large = Shape(16, 1000, 128), Shape(1, 262144, 512)
    half = Shape(16, 32768, 512, dtype="bfloat16")
    for where in (VNNI, AVX2):
        monkeypatch.setattr(bars, "machine", lambda where=where: where)
        measured = {bar.shape: bar.providers for bar in bars.BARS}
        assert all({BANK, TOPK, RAW, BEFORE} <= names for names in measured.values())
        assert measured[small] == {BANK, TOPK, RAW, BEFORE, FAISS}
        assert measured[half] == {BANK, TOPK, RAW, BEFORE}
        assert set(bars.BEST) <= measured[large]
        assert (ONE_CALL in measured[large]) == (where == VNNI)


def test_every_bar_is_measured_and_gated(monkeypatch: pytest.MonkeyPatch) -> None:
    bar = Bar(Shape(5, 211, 17, 7), {AVX2: 1, VNNI: 1}, {AVX2: 1, VNNI: 1})
    monkeypatch.setattr(bars, "BARS", (bar,))
    monkeypatch.setattr(bars, "BUDGET", 0)
    [(shape, rows)] = bars.measure([bar], [], minutes=1)
    assert {r.provider for r in rows} >= {BANK, TOPK, RAW, BEFORE}
    assert {r.agreement for r in rows} == {1}
    for verdict in (cells := _line(*rows, bar=bar))["held"], cells["topk held"]:
        assert verdict in ("held", "missed")
    assert f"| {shape.title} |" in bars.report(rows)
    assert list(bars.measure([bar], [], minutes=-1)) == []


def test_shapes_without_a_bar_are_refused() -> None:
    assert [bar.shape for bar in bars.chosen([])] == [bar.shape for bar in bars.BARS]
    with pytest.raises(ValueError, match="shapes that have a bar; got 2x30x4/10/cosine/float32"):
        bars.chosen([Shape(2, 30, 4)])


# Limited processes


def test_a_limit_is_kept_with_every_variable() -> None:
    variables = {v.name: v.value for v in LIMITS["avx2"]}
    assert limited_to(variables) == "avx2"
    assert limited_to({**variables, "FAISS_OPT_LEVEL": "avx2"}) == "avx2"
    for name in variables:
        assert limited_to({**variables, name: "AVX512"}) == ""
        assert limited_to({k: v for k, v in variables.items() if k != name}) == ""


def test_a_limited_process_has_the_bars_of_its_class_and_says_so() -> None:
    variables = {v.name: v.value for v in LIMITS["avx2"]}
    unlimited = {k: v for k, v in os.environ.items() if k not in variables}
    command = ["bars", "--minutes", "-1", "--dry-run", "--limited", "avx2"]
    printed = output_of(ROOT / "bench", *command, env=unlimited)
    assert " threads), limited to AVX2; absent: " in printed
    paths = os.pathsep.join([str(ROOT / "bench"), os.environ.get("PYTHONPATH", "")])
    code = "from studies.bars import machine; print('class', machine())"
    found = output_of("-c", code, env={**unlimited, **variables, "PYTHONPATH": paths}).split()[-1]
    if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512"):
        assert found == AVX2
    assert found != VNNI
