"""Time goes to the innermost stage, and to nobody twice."""

import sys
import time

import pytest

from flashmatch.kernels.explaining import rates, stage_clock
from flashmatch.kernels.explaining.stage_clock import RESCORE, REST, SCREEN, SELECT, StageClock
from flashmatch.kernels.products import choice


def inner() -> str:
    time.sleep(0.05)
    return "done"


def outer() -> str:
    time.sleep(0.02)
    return inner()


def failing() -> None:
    time.sleep(0.02)
    raise ZeroDivisionError


@pytest.fixture(autouse=True)
def stages(monkeypatch: pytest.MonkeyPatch) -> None:
    by_code = {outer.__code__: SELECT, inner.__code__: SCREEN, failing.__code__: RESCORE}
    monkeypatch.setattr(stage_clock, "_BY_CODE", by_code)
    monkeypatch.setattr(stage_clock, "_SCREEN_BY_CODE", {inner.__code__: "fp32"})


def test_the_innermost_stage_has_the_time() -> None:
    clock, start = StageClock(), time.perf_counter()
    assert clock.timed(outer) == "done"
    elapsed = time.perf_counter() - start
    assert clock.seconds[SCREEN] >= 0.05
    assert clock.seconds[SELECT] >= 0.02
    assert clock.seconds[RESCORE] == 0
    assert sum(clock.seconds.values()) <= elapsed
    assert clock.screens == ["fp32"]


def test_what_fails_has_its_time_and_the_profiler_before_is_back() -> None:
    before, clock = sys.getprofile(), StageClock()
    with pytest.raises(ZeroDivisionError):
        clock.timed(failing)
    assert sys.getprofile() is before
    assert clock.seconds[RESCORE] >= 0.02
    clock.timed(lambda: time.sleep(0.02))
    assert clock.seconds[REST] >= 0.02


@pytest.mark.parametrize("screen", ["int8", "bf16", "fp32", "fp64"])
def test_rates(screen: str) -> None:
    if screen == "int8" and not choice.product_of_codes("cpu"):
        pytest.skip("integer products are not exact here")
    assert 1e6 < rates.multiplications_per_second(screen, 3, 16) < 1e15
    assert 1e7 < rates.bytes_per_second() < 1e13
