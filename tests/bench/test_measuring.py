"""The instruments notice wrong answers, time in turns, and keep what was written."""

import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from rows import row

from flashmatch.kernels.contract import reference
from measuring import gate, ledger, memory, shapes, timing
from providers.ours import BANK

CPU = torch.device("cpu")
SHAPE = shapes.Shape(5, 211, 17, 7)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_truth_is_the_oracle(metric: str, dtype: str) -> None:
    shape = shapes.Shape(5, 211, 17, 7, metric, dtype)
    queries, prototypes = shapes.make(shape, CPU)
    found = gate.truth(queries, prototypes, shape.k, metric)
    assert torch.equal(found.indices, reference.topk(queries, prototypes, shape.k, metric)[1])


def test_truth_orders_more_ties_than_it_keeps_candidates() -> None:
    queries, prototypes = torch.ones(2, 3), torch.ones(500, 3)
    prototypes[::7] *= -1
    expected = reference.topk(queries, prototypes, 9)[1]
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
    assert timing.summarise([0.004, 0.001, 0.002]) == timing.Timing(2, 1.5, 3, 3)
    assert timing.summarise([0.001]) == timing.Timing(1, 1, 1, 1)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_memory_sees_what_is_freed_before_the_end() -> None:
    def call() -> None:
        torch.ones(12 * memory.MIB).sum()  # 48 MiB of float32

    peak = memory.peak_mib(call, CPU)
    assert peak is None or 47 < peak < 64


def test_searches_are_timed_in_turns() -> None:
    asked: list[str] = []
    clocks = {name: partial(_clock, asked, name) for name in "abc"}
    timings, failures = timing.interleave(clocks, dict.fromkeys("abc", 2e-3), budget=0)
    assert asked == list("abcbcacab")
    assert not failures
    assert set(timings.values()) == {timing.Timing(500, 500, 500, 3)}


def test_few_samples_are_spread_over_the_turns_of_many() -> None:
    asked: list[str] = []
    clocks = {name: partial(_clock, asked, name) for name in "ab"}
    timing.interleave(clocks, {"a": 8e-3, "b": 2e-3}, budget=8e-3, least=2)
    assert asked == list("bbabba")


def _clock(asked: list[str], name: str, calls: int) -> float:
    asked.append(name)
    return calls / 2


def test_old_ledgers_keep_their_columns_and_are_only_appended_to(tmp_path: Path) -> None:
    """Rows of GPUs once had a last column, of what a model predicted."""
    path = ledger.append([row(BANK)], tmp_path)
    head, line = path.read_text().splitlines()
    before = f"{head},predicted_ms\n{line},1.5\n"
    path.write_text(before)
    ledger.append([row(BANK, 7.0)], tmp_path)
    assert path.read_text().startswith(before)
    assert ledger.read(path) == [row(BANK), row(BANK, 7.0)]
    after = path.read_text()
    path.write_text(after.replace(",agreement,", ",another,"))
    with pytest.raises(ValueError, match="agreement"):
        ledger.append([row(BANK)], tmp_path)
    assert path.read_text().count("\n") == after.count("\n")
