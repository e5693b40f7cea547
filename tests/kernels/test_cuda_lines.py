"""What runs on CUDA alone, without a GPU: the lines that ask for a device are named by tests of
tests/device, and these tests are rehearsed on a device that is pretended."""

import os

import pytest
import torch
from pretended import OnDevice, pretended_device
from problems import METRICS, Problem, assert_exact, vectors
from programs import output_of
from reached import KERNELS, ROOT, cuda_lines, named_lines
from screens import SCREENS

from flashmatch import PrototypeBank, topk
from flashmatch.kernels import dispatch
from flashmatch.kernels.codes import frame
from flashmatch.kernels.products import fp64, integers, rounding
from flashmatch.kernels.proofs import int8
from flashmatch.kernels.torch_backend.candidates import Candidates

CUDA = torch.device("cuda", 0)
OF_TRITON = {"tune.py"}
"""Whose tests are tests/device/test_device_tune.py, of a sweep that Triton alone has."""


def test_lines_that_are_named_are_there() -> None:
    gone = {
        (path, line)
        for path, line in named_lines()
        if line not in {text.strip() for text in (KERNELS / path).read_text().splitlines()}
    }
    assert not gone


def test_every_line_that_asks_for_a_device_is_named() -> None:
    unnamed = {(path, line) for path, line in cuda_lines() - named_lines() if path not in OF_TRITON}
    assert not unnamed, "name each in a test of tests/device/test_device_torch.py by `reaches`"


def test_such_lines_are_found() -> None:
    lines = {line for _, line in cuda_lines()}
    assert 'return rows.to(device, non_blocking=device.type != "cpu")' in lines
    assert len(lines) > 20


@pytest.mark.skipif(
    "ATEN_CPU_CAPABILITY" in os.environ, reason="which instructions there are changes nothing"
)
def test_rehearsal() -> None:
    """In a process of its own: torch's guard of CUDA devices is replaced for good."""
    folders = [ROOT / "tests" / "support", ROOT / "tests" / "support" / "searches"]
    before = os.environ.get("PYTHONPATH", "")
    path = os.pathsep.join([*map(str, folders), *filter(None, [before])])
    options = ("-q", "-p", "rehearsed", "-p", "no:cacheprovider")
    tests = [ROOT / "tests" / "device" / f"test_device_{name}.py" for name in ("torch", "bank")]
    output = output_of("-m", "pytest", *options, *tests, env=os.environ | {"PYTHONPATH": path})
    assert "passed" in output


def test_the_pretended_device_refuses_what_cuda_does() -> None:
    codes = torch.zeros(16, 16, dtype=torch.int8)
    with pretended_device():
        there = torch.ones(3, 4, device="cuda")
        for call, what in (
            (lambda: there + torch.ones(4), "same device"),
            (lambda: torch.cat([there, torch.ones(3, 4)]), "same device"),
            (lambda: torch.ones(4)[there[0].long()], "same device"),
            (
                lambda: torch.mm(there, torch.ones(4, 3, device="cuda"), out=torch.ones(3, 3)),
                "same",
            ),
            (lambda: there.to("cpu", non_blocking=True), "before it has arrived"),
            (lambda: torch._int_mm(codes.cuda(), codes.cuda()), "_int_mm"),
        ):
            with pytest.raises(RuntimeError, match=what):
                call()
        assert (there + torch.tensor(1.0)).sum().item() == 24  # a number goes with any device
        assert there.cpu().device.type == "cpu"


def test_the_pretended_device_promises_no_order_of_ties() -> None:
    with pretended_device():
        ties = torch.zeros(9, device="cuda")
        assert isinstance(ties, OnDevice)
        assert ties.topk(2).indices.tolist() != torch.zeros(9).topk(2).indices.tolist()
        assert ties.sort().indices.tolist() == list(range(9))[::-1]
        assert ties.sort(stable=True).indices.tolist() == list(range(9))
        assert ties.argsort(stable=True).tolist() == list(range(9))


@pytest.mark.parametrize("metric", METRICS)
def test_queries_on_the_host_wait_for_prototypes(
    metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "why_no_triton", lambda device: "a test")
    generator = torch.Generator().manual_seed(0)
    q, p = (vectors("duplicates", n, 24, generator).float() for n in (7, 3_000))
    with pretended_device():
        matches = topk(q, [p[:1_000].cuda(), p[1_000:]], 5, metric=metric)
    assert_exact(matches, Problem(q, [p], 5, metric))


def test_settings_of_two_kinds() -> None:
    matmul = torch.backends.cuda.matmul
    if not hasattr(matmul, "fp32_precision"):
        pytest.skip("torch 2.9 has the newer kind")
    matmul.fp32_precision = "tf32"
    try:
        assert "legacy and new, mixed" in rounding._settings(CUDA)
    finally:
        matmul.fp32_precision = "none"
    assert rounding._settings(CUDA) == rounding._STRICT


@pytest.mark.parametrize(("value", "expected"), [("", True), ("0", True), ("1", False)])
def test_emulated_fp64(value: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_EMULATE_DOUBLE_PRECISION", value)
    with pretended_device():
        assert fp64.multiplies_in_fp64.__wrapped__(CUDA) == expected
    assert fp64.multiplies_in_fp64.__wrapped__(torch.device("cpu"))


def test_fp64_that_is_less(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fp64, "fp64_slack", lambda channels: 2.0**-80)
    assert not fp64.multiplies_in_fp64.__wrapped__(torch.device("cpu"))


@pytest.mark.skipif(not integers.is_exact("cpu"), reason="the pretended device would be wrong")
def test_integer_products_that_are_wrong_or_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    is_exact, original = integers.is_exact.__wrapped__, integers.multiply_codes

    def missing(*_: object) -> None:
        raise RuntimeError("CUBLAS_STATUS_NOT_SUPPORTED")

    def saturating(*operands: torch.Tensor) -> torch.Tensor:
        return original(*operands).clamp(min=-(2**15) * 4)

    with pretended_device():
        assert is_exact("cuda")
        for wrong in (missing, saturating):
            monkeypatch.setattr(integers, "multiply_codes", wrong)
            assert not is_exact("cuda")
    assert not is_exact("mps")


def test_a_lack_of_memory_says_nothing_of_products(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(integers, "multiply_codes", full)
    with pytest.raises(torch.OutOfMemoryError):
        integers.is_exact.__wrapped__("cpu")


@pytest.mark.parametrize("count", [1, 2, 9, 10])
def test_medians_without_indices(count: int) -> None:
    rows = torch.randn(count, 7, generator=torch.Generator().manual_seed(count))
    with pretended_device():
        torch.use_deterministic_algorithms(True)
        try:
            found = frame._medians(rows.cuda()).cpu()
        finally:
            torch.use_deterministic_algorithms(False)
    assert torch.equal(found, frame._medians(rows))


def test_thresholds_are_no_products_of_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    """cuBLAS may emulate those, by integers with one scale for numbers as far apart as these."""

    def emulated(*_: object) -> None:
        raise AssertionError("a product of fp64 matrices")

    left = torch.tensor([[1.0, 1e200, 1e-200, 3.0]], dtype=torch.float64)
    right = torch.tensor([[5.0], [1e-200], [1e200], [7.0]], dtype=torch.float64)
    expected = left @ right
    monkeypatch.setattr(torch.Tensor, "__matmul__", emulated)
    with pretended_device():
        found = int8._products(left.cuda(), right.cuda()).cpu()
    assert found.tolist() == expected.tolist() == [[28.0]]


@pytest.mark.parametrize("screen", ["float", "int8"])
def test_candidates_that_always_are_too_many(
    screen: str, monkeypatch: pytest.MonkeyPatch, screened_small: None
) -> None:
    """They are rescored at once, which no answer shows; neither branch is of CUDA alone."""
    if screen not in SCREENS:
        pytest.skip("integer products are not exact here")
    generator = torch.Generator().manual_seed(0)
    q, p = (vectors("duplicates", n, 24, generator).float() for n in (7, 3_000))
    monkeypatch.setattr(Candidates, "crowded", lambda self: True)
    assert_exact(PrototypeBank(p, screen=screen).topk(q, 5), Problem(q, [p], 5, "cosine"))
