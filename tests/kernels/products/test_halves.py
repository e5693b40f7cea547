"""When bf16 matrices are multiplied as they are."""

from collections.abc import Iterator

import pytest
import torch

from flashmatch.kernels.products import halves


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(halves, "are_fast", lambda *setting: True)
    yield
    halves.are_exact.cache_clear()


@pytest.mark.parametrize("lost", [2.0**-7, 2.0**-8])
def test_products_that_are_rounded_twice_or_cut_off_are_not_taken(
    lost: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    multiply = torch.mm
    monkeypatch.setattr(
        torch, "mm", lambda a, b: multiply(a.float(), b.float()).mul(1 - lost).bfloat16()
    )
    assert not halves.serve()


def test_exact_products_are_taken_where_they_are_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    multiply = torch.mm
    monkeypatch.setattr(torch, "mm", lambda a, b: multiply(a.float(), b.float()).bfloat16())
    assert halves.serve()
    monkeypatch.setattr(halves, "are_fast", lambda *setting: False)
    assert not halves.serve()


def test_probes_mean_the_same_in_whatever_mode_torch_is_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    is_exact = halves.are_exact.__wrapped__()
    for mode in (
        torch.inference_mode(),
        torch.autocast("cpu", dtype=torch.bfloat16),
        torch.device("meta"),
    ):
        with mode:
            assert halves.are_exact.__wrapped__() == is_exact
            assert halves.are_fast.__wrapped__() in (True, False)
