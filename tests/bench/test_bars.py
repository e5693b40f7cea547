"""A bar is held by the right row against the strictest other; a limit wins nothing."""

import pytest
from rows import row

from measuring import shapes
from measuring.ledger import LIMIT
from measuring.ratios import ratio
from providers.limits import CHUNK_BY_CHUNK, ONE_CALL
from providers.ours import BANK, TOPK
from studies import bars

BAR = bars.Bar(shapes.Shape(64, 131072, 128), faster=3, over=2)


def _line(*rows) -> dict[str, str]:
    cells = bars.line(BAR, {r.provider: r for r in rows})
    assert len(cells) == len(bars.HEAD)
    return {
        "peer": cells[2],
        "faster": cells[3],
        "is_faster": cells[5],
        "one": cells[6],
        "chunks": cells[7],
        "is_near": cells[9],
    }


def _limit(name: str, median_ms: float):
    return row(name, median_ms, agreement=None, status=LIMIT)


def test_ratio_leaves_open_what_the_quartiles_leave_open() -> None:
    found = ratio(row("peer", 30.0, 6.0), row(BANK, 10.0, 2.0))
    assert (found.median, found.low, found.high) == (3.0, 24 / 12, 36 / 8)
    assert str(found) == "3.00 (2.00 to 4.50)"


@pytest.mark.parametrize(("ours", "verdict"), [(10.0, "held"), (10.1, "missed")])
def test_faster_than_the_best_peer(ours: float, verdict: str) -> None:
    peers = row("slow", 90.0), row("best", 30.0), row(TOPK, 11.0)
    line = _line(row(BANK, ours), *peers)
    assert line["peer"] == "best 30 (1)"
    assert line["is_faster"] == verdict


@pytest.mark.parametrize(("ours", "verdict"), [(10.0, "held"), (10.1, "missed")])
@pytest.mark.parametrize(("one", "chunks"), [(50.0, 5.0), (5.0, 50.0)])
def test_near_the_stricter_of_the_limits(
    one: float, chunks: float, ours: float, verdict: str
) -> None:
    line = _line(row(BANK, ours), _limit(ONE_CALL, one), _limit(CHUNK_BY_CHUNK, chunks))
    assert line["one"].startswith(f"{ours / one:.2f} ")
    assert line["chunks"].startswith(f"{ours / chunks:.2f} ")
    assert line["is_near"] == verdict
    assert line["is_faster"] == "nothing to compare with"


def test_a_limit_is_never_the_best_peer() -> None:
    line = _line(row(BANK), _limit(ONE_CALL, 1.0), row("peer", 40.0))
    assert line["peer"] == "peer 40 (1)"
    assert line["is_faster"] == "held"


def test_a_peer_counts_when_it_is_nearly_right() -> None:
    nearly, wrong = row("nearly", 40.0, agreement=0.995), row("wrong", 1.0, agreement=0.98)
    assert _line(row(BANK), nearly, wrong, row("right", 50.0))["peer"] == "nearly 40 (0.995000)"


def test_nothing_is_held_with_one_wrong_place() -> None:
    line = _line(row(BANK, 1.0, agreement=0.999999), row("peer", 90.0), _limit(CHUNK_BY_CHUNK, 1.0))
    assert line["is_faster"] == line["is_near"] == "missed: not exact"


def test_what_was_not_measured_is_not_held() -> None:
    [faster, near] = [bars.HEAD.index("times faster") + 2, len(bars.HEAD) - 1]
    for rows in ({}, {BANK: row(BANK, None, status="skipped: too tired")}):
        cells = bars.line(BAR, rows)
        assert cells[faster] == cells[near] == ""
    assert "too tired" in cells[1]


def test_report_has_the_bars_that_were_measured() -> None:
    at = {"Q": 1, "M": 262144, "C": 512}
    report = bars.report([row(BANK, **at), row("peer", 30.0, **at), row(BANK, k=9, **at)])
    assert report.count("\n| 1x") == 1
    assert "3.00 (3.00 to 3.00) | >= 3 | held" in report
    assert bars.report([row(BANK, k=9)]) == ""


def test_every_bar_is_part_of_the_benchmark_and_comes_first() -> None:
    assert {bar.shape for bar in bars.BARS} == set(shapes.CPU[: len(bars.BARS)])
