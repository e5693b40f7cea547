"""What products round is found out, whatever settings say; the answer stays the same."""

import math
from collections.abc import Callable

import pytest
import torch
from problems import METRICS
from programs import output_of
from torch import Tensor

from flashmatch import PrototypeBank, topk
from flashmatch.kernels.products import fp64, pairs, rounding
from flashmatch.kernels.torch_backend import rescore

CPU = torch.device("cpu")


def truncated(bits: int) -> Callable[[Tensor], Tensor]:
    """fp32 numbers without their last ``bits`` bits."""
    return lambda x: (x.view(torch.int32) >> bits << bits).view(torch.float32)


FORMATS = {
    "bf16": (lambda x: x.bfloat16().float(), rounding.BF16),
    "bf16, truncated": (truncated(16), rounding.BF16),
    "tf32, truncated": (truncated(13), rounding.TF32),
    "fp16": (lambda x: x.half().float(), math.inf),  # another range
    "fp8": (lambda x: x.to(torch.float8_e4m3fn).float(), math.inf),
    "nothing": (lambda x: x * 0, math.inf),
}


def emulate(patch: pytest.MonkeyPatch, name: str) -> None:
    """fp32 products that round their operands first, as another library's would."""
    lossy, mm, addmm = FORMATS[name][0], torch.mm, torch.addmm

    def rounded(x: Tensor) -> Tensor:
        return lossy(x.contiguous()) if x.dtype == torch.float32 else x

    patch.setattr(torch, "mm", lambda a, b, **k: mm(rounded(a), rounded(b), **k))
    patch.setattr(torch, "addmm", lambda c, a, b, **k: addmm(c, rounded(a), rounded(b), **k))


def test_ieee_products_show_no_error() -> None:
    assert rounding.operand_roundoff(CPU) == 0.0
    assert fp64.multiplies_in_fp64(CPU)


@pytest.mark.parametrize("name", FORMATS)
def test_products_are_measured_anew_where_they_are_others(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rounding.operand_roundoff(CPU) == 0.0
    emulate(monkeypatch, name)
    assert rounding.operand_roundoff(CPU) == FORMATS[name][1]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", FORMATS)
def test_the_answer_is_the_same(name: str, metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    p = torch.randn(20_000, 48, generator=generator)
    q = torch.randn(32, 48, generator=generator)
    expected, bank = topk(q, p, 10, metric=metric), PrototypeBank(p, metric=metric)
    emulate(monkeypatch, name)
    assert all(map(torch.equal, topk(q, p, 10, metric=metric), expected))
    assert all(map(torch.equal, bank.topk(q, 10), expected))


def test_products_of_chosen_pairs_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    original = pairs.chosen_dots

    def rounded(q: Tensor, p: Tensor, *chosen: Tensor) -> Tensor:
        return original(q.bfloat16().float(), p.bfloat16().float(), *chosen)

    monkeypatch.setattr(pairs, "chosen_dots", rounded)
    rounding._measured.cache_clear()
    assert rounding.operand_roundoff(CPU) == rounding.BF16
    monkeypatch.undo()
    rounding._measured.cache_clear()
    assert rounding.operand_roundoff(CPU) == 0.0


@pytest.mark.parametrize("metric", METRICS)
def test_fp64_products_are_not_believed_either(
    metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    q, p = torch.randn(5, 9, generator=generator), torch.randn(50, 9, generator=generator)
    expected = topk(q, p, 50, metric=metric)
    monkeypatch.setattr(rescore, "multiplies_in_fp64", lambda device: False)
    assert all(map(torch.equal, topk(q, p, 50, metric=metric), expected))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", 0.0),
        ("strict", 0.0),
        ("BF16", 2.0**-7),
        ("TF32", 2.0**-7),
        ("F16", math.inf),
        ("any", math.inf),
        ("from the future", math.inf),
    ],
)
@pytest.mark.parametrize("name", ["ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE"])
def test_the_environment_is_taken_at_its_word(
    name: str, value: str, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    assert rounding._allowed_by_environment.__wrapped__("cpu") == expected


def test_the_environment_of_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = rounding._allowed_by_environment.__wrapped__
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    assert allowed("cuda") == 0.0
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    assert allowed("cuda") == 2.0**-7
    assert allowed("cpu") == 0.0


def test_searches_in_an_environment_that_allows_bf16() -> None:
    program = """
import torch
from flashmatch import topk
from flashmatch.kernels.products import rounding
print(rounding.operand_roundoff(torch.device("cpu")))
g = torch.Generator().manual_seed(0)
p, q = torch.randn(20000, 48, generator=g), torch.randn(8, 48, generator=g)
print(topk(q, p, 5).indices.tolist())
"""
    outputs = [
        output_of("-c", program, env=env).splitlines()
        for env in (None, {"ONEDNN_DEFAULT_FPMATH_MODE": "BF16"})
    ]
    assert [float(lines[0]) for lines in outputs] == [0.0, 2.0**-7]
    assert outputs[0][1] == outputs[1][1]
