"""Products by fbgemm: believed where they are exact, and used where they are fast."""

import warnings
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from programs import output_of
from screens import needs_fbgemm
from torch import Tensor

from flashmatch.kernels import dispatch
from flashmatch.kernels.products import choice, integers, packed
from flashmatch.kernels.proofs.int8 import LARGEST_PACKED_QUERY_CODE

CPU = torch.device("cpu")
MAX16 = 2**15 - 1


def by_pairs(most: int, zero_point: int = 64) -> Callable[[Tensor, Tensor], Tensor]:
    """The product as units without VNNI make it: pairs are added, and clamped to ``most``."""

    def multiply(queries: Tensor, codes: Tensor) -> Tensor:
        unsigned, wide = (queries + zero_point).long(), codes.long()
        terms = torch.nn.functional.pad(
            unsigned[:, None] * wide, (0, codes.shape[1] % 2)
        ).unflatten(2, (-1, 2))
        total = terms.sum(3).clamp(-most - 1, most).sum(2) - zero_point * wide.sum(1)
        return total.float()

    return multiply


def is_believed(patch: pytest.MonkeyPatch, multiply: Callable[[Tensor, Tensor], Tensor]) -> bool:
    patch.setattr(packed, "_EXTREMES", ((1, 9, 4), (17, 40, 33), (3, 9, 1 << 12)))
    patch.setattr(packed, "pack", lambda codes: codes)
    patch.setattr(packed, "multiply_packed", multiply)
    return packed.is_packed_exact.__wrapped__()


def test_units_that_saturate_pairs_are_exact_with_queries_of_seven_bits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert is_believed(monkeypatch, by_pairs(MAX16))
    monkeypatch.setattr(packed, "LARGEST_PACKED_QUERY_CODE", 127)
    assert not is_believed(monkeypatch, by_pairs(MAX16, zero_point=128))


def test_products_that_are_wrong_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = by_pairs(MAX16)
    assert not is_believed(monkeypatch, by_pairs(MAX16 - 510))
    assert not is_believed(monkeypatch, lambda q, p: exact(q, p) + 1)
    towards_zero = lambda q, p: exact(q, p).nextafter(torch.zeros(()))  # noqa: E731
    assert not is_believed(monkeypatch, towards_zero)


@pytest.mark.parametrize("error", [AttributeError, RuntimeError, NotImplementedError])
def test_products_that_are_missing(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> Tensor:
        raise error("no such operator")

    assert not is_believed(monkeypatch, missing)


def test_a_lack_of_memory_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> Tensor:
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        is_believed(monkeypatch, full)


@pytest.mark.parametrize("channels", [64, 512])
@pytest.mark.parametrize("vnni", [True, False])
@pytest.mark.parametrize("by_torch", [True, False])
@pytest.mark.parametrize(("by_fbgemm", "fast"), [(True, True), (True, False), (False, False)])
def test_the_choice(
    vnni: bool,
    by_torch: bool,
    by_fbgemm: bool,
    fast: bool,
    channels: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vnni &= by_torch
    monkeypatch.setattr(integers, "why_not_fast", lambda device: "" if vnni else "no VNNI")
    monkeypatch.setattr(integers, "is_fast", lambda device: vnni)
    monkeypatch.setattr(integers, "is_exact", lambda device: by_torch)
    monkeypatch.setattr(packed, "is_packed_exact", lambda: by_fbgemm)
    monkeypatch.setattr(packed, "is_packed_fast", lambda: fast)
    dispatch._warn_if_slow.cache_clear()
    product = "int_mm" if vnni else "fbgemm" if by_fbgemm else "int_mm" if by_torch else ""
    assert choice.product_of_codes("cpu") == product
    is_wanted = vnni or (fast and channels == 512)
    assert (dispatch.layout_for(CPU, channels, "auto") is not None) == is_wanted
    if not product:
        with pytest.raises(ValueError, match="not exact"):
            dispatch.layout_for(CPU, channels, "int8")
    elif vnni or fast:
        assert dispatch.layout_for(CPU, channels, "int8") is not None
    else:
        with pytest.warns(UserWarning, match="slower here than 'float', which 'auto' takes"):
            dispatch.layout_for(CPU, channels, "int8")
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # it is said once
            assert dispatch.layout_for(CPU, channels, "int8") is not None
    dispatch._warn_if_slow.cache_clear()


@needs_fbgemm
@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 90), st.integers(1, 1100))
def test_products_are_those_of_integers(seed: int, count: int, rows: int, channels: int) -> None:
    most, generator = LARGEST_PACKED_QUERY_CODE, torch.Generator().manual_seed(seed)
    queries = torch.randint(-most, most + 1, (count, channels), generator=generator)
    codes = torch.randint(-127, 128, (rows, channels), generator=generator).to(torch.int8)
    pack = packed.pack(codes)
    assert torch.equal(packed.unpack(pack), codes)
    found = packed.multiply_packed(queries.float(), pack)
    assert torch.equal(found, (queries @ codes.long().T).float())


@needs_fbgemm
def test_engines_of_others_are_left_as_they_are() -> None:
    engine = torch.backends.quantized.engine
    codes = torch.full((3, 8), 5, dtype=torch.int8)
    for other in set(torch.backends.quantized.supported_engines) - {"none"}:
        torch.backends.quantized.engine = other
        try:
            pack = packed.pack(codes)
            assert torch.backends.quantized.engine == other
            assert torch.equal(packed.unpack(pack), codes)
            assert (packed.multiply_packed(torch.ones(2, 8), pack) == 40).all()
        finally:
            torch.backends.quantized.engine = engine


@needs_fbgemm
def test_torch_says_nothing_of_quantized_tensors() -> None:
    program = (
        "import torch; from flashmatch.kernels.products import packed;"
        "print(packed.is_packed_exact());"
        "packed.unpack(packed.pack(torch.ones(3, 8, dtype=torch.int8)))"
    )
    assert output_of("-W", "error", "-c", program).strip() == "True"
