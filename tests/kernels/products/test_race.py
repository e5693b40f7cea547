"""Products that have to be faster than fp32 are timed beside it, each of their shapes."""

from collections.abc import Callable

import pytest
from screens import needs_fbgemm

from flashmatch.kernels.products import halves, packed, race

TIMED = [
    pytest.param(packed.is_packed_fast, marks=needs_fbgemm, id="fbgemm"),
    pytest.param(halves.are_fast, id="bf16"),
]


@pytest.mark.parametrize("is_fast", TIMED)
@pytest.mark.parametrize(("ours", "faster"), [(1.0, True), (3.0, False)])
def test_they_are_timed(
    is_fast: Callable[[], bool], ours: float, faster: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Again where they lost."""
    calls: list[object] = []

    def seconds(product: race.Product) -> float:
        product()
        calls.append(product)
        return ours if len(calls) % 2 else 2.0

    monkeypatch.setattr(race, "_seconds", seconds)
    assert is_fast.__wrapped__() == faster
    tries, shapes = (1, 2) if faster else (race.TRIES, 1)
    assert len(calls) == tries * shapes * 2 * race.ROUNDS
