"""What a bank says of a search: counts that are known, stages that add up, refusals."""

import os

import numpy as np
import pytest
import torch
from problems import METRICS
from screens import ONE_PASS, SMALL, needs_int8

from flashmatch import Explanation, PrototypeBank
from flashmatch.kernels.products import halves
from flashmatch.kernels.storage import operands
from flashmatch.kernels.torch_backend import plan
from flashmatch.kernels.torch_backend.cpu import plan as cpu_plan

K = 5


def bank_of(
    rows: int, channels: int = 32, screen: str = "float", metric: str = "cosine"
) -> PrototypeBank:
    vectors = torch.randn(rows, channels, generator=torch.Generator().manual_seed(0))
    return PrototypeBank(vectors, screen=screen, metric=metric, progress=False)


def queries_of(count: int, channels: int = 32) -> torch.Tensor:
    return torch.randn(count, channels, generator=torch.Generator().manual_seed(1))


def searched(patch: pytest.MonkeyPatch, way: str) -> None:
    for name, value in ONE_PASS[way].items():
        patch.setattr(cpu_plan, name, value)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("way", "screen"), [("whole", "fp64"), ("screened", "fp32")])
def test_of_vectors(way: str, screen: str, metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    searched(monkeypatch, way)
    bank = bank_of(3000, metric=metric)
    found = bank.explain(queries_of(7), K)
    assert (found.queries, found.prototypes, found.channels, found.k) == (7, 3000, 32, K)
    assert (found.backend, found.screens) == ("torch", (screen,))
    assert found.bytes_screened == 3000 * 32 * 4
    assert K <= found.survivors < 50
    assert found.bytes_rescored == found.survivors * 7 * 32 * 4
    assert found.repaired == 0
    assert_adds_up(found)
    assert bank.stats.queries == 0


@needs_int8
def test_of_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SMALL.items():
        monkeypatch.setattr(plan, name, value)
    monkeypatch.setattr(cpu_plan, "CODES_ELEMENTS", 0)
    found = bank_of(9000, 64, "int8").explain(queries_of(7, 64), K)
    assert found.screens == ("int8",)
    assert found.bytes_screened >= 9000 * 64
    assert found.survivors >= K
    assert_adds_up(found)


@pytest.mark.skipif(not halves.serve(), reason="products of bf16 are not used here")
def test_of_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    searched(monkeypatch, "halves")
    monkeypatch.setattr(operands, "KEPT_ELEMENTS", 0)  # in fp32, that is
    rows = torch.randn(3000, 32, generator=torch.Generator().manual_seed(0)).bfloat16()
    found = PrototypeBank(rows, screen="float").explain(rows[:7], K)
    assert found.screens[0] == "bf16"
    assert_adds_up(found)


def test_what_the_first_screen_leaves_is_repaired(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that all tie: a shortlist proves nothing."""
    searched(monkeypatch, "screened")
    bank = PrototypeBank(torch.ones(3000, 32), screen="float", progress=False)
    found = bank.explain(torch.ones(1, 32), K)
    assert "fp64" in found.screens
    assert_adds_up(found)


def assert_adds_up(found: Explanation) -> None:
    assert [stage.name for stage in found.stages] == [
        "screen",
        "select",
        "rescore",
        "certify",
        "rest",
    ]
    assert sum(stage.seconds for stage in found.stages) == pytest.approx(found.seconds)
    assert all(stage.seconds >= 0 for stage in found.stages)
    screen, _, rescore, *_ = found.stages
    assert screen.seconds > 0
    assert [s.predicted is not None for s in found.stages] == [True, False, True, False, False]
    assert screen.predicted > 0
    assert rescore.predicted >= 0


def test_a_busy_machine_is_looked_at_in_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of workers' threads nothing would be seen."""
    monkeypatch.setattr(os, "getloadavg", lambda: (99.0, 99.0, 99.0), raising=False)
    monkeypatch.setattr("flashmatch.kernels.dispatch.SHARED_WORK", 1)
    found = bank_of(60_000).explain(queries_of(7), K)
    assert found.stages[0].seconds > 0


def test_a_thread_that_flushes_is_looked_at_in_another() -> None:
    if not torch.set_flush_denormal(True):
        pytest.skip("denormals cannot be flushed here")
    try:
        found = bank_of(2000).explain(queries_of(3), K)
    finally:
        torch.set_flush_denormal(False)
    assert_adds_up(found)


def test_queries_of_any_kind_and_a_mask() -> None:
    bank, queries = bank_of(500), queries_of(3).numpy()
    mask = np.arange(500) < 2
    found = bank.explain(queries, K, mask=mask)
    assert found.queries == 3
    assert_adds_up(found)


def test_shows_itself() -> None:
    found = bank_of(2000).explain(queries_of(3), K)
    lines = str(found).splitlines()
    assert lines[0] == "3 queries, 2,000 prototypes of 32 channels, k = 5"
    assert len(lines) == 10
    assert all(any(name in line for line in lines) for name in ("survivors", "read", "rescore"))
    html = found._repr_html_()
    assert "3 queries, 2,000 prototypes" in html
    assert "survivors a query" in html


def test_refusals() -> None:
    bank = bank_of(20)
    with pytest.raises(ValueError, match="queries must be at least one, to explain a search; got"):
        bank.explain(torch.ones(0, 32), 1)
    for k in (0, -1):
        with pytest.raises(ValueError, match=f"k must be at least 1; got {k}"):
            bank.explain(torch.ones(1, 32), k)
    with pytest.raises(ValueError, match=r"k must be .* 20"):
        bank.explain(torch.ones(1, 32), 21)
    with pytest.raises(ValueError, match="queries must have the bank's 32 channels"):
        bank.explain(torch.ones(1, 31), 1)
    with pytest.raises(ValueError, match="mask must"):
        bank.explain(torch.ones(1, 32), 1, mask=torch.ones(19, dtype=torch.bool))
    with pytest.raises(ValueError, match="queries must be finite"):
        bank.explain(torch.full((1, 32), torch.nan), 1)
