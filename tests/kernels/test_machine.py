"""``flashmatch info``: a screenful that says what will search, and why nothing else will."""

import os
import sys
from pathlib import Path

import pytest
import torch
from programs import output_of

from flashmatch import PrototypeBank, __version__
from flashmatch.__main__ import main
from flashmatch.kernels import machine
from flashmatch.kernels.products import fp64, integers, packed, rounding


def shown(capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["info"]) == 0
    return capsys.readouterr().out


def test_it_fits_on_a_screen(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys).splitlines()
    assert 10 <= len(lines) <= 24
    assert max(len(line) for line in lines if not line.startswith("limits")) <= 110
    assert lines[0].startswith(f"flashmatch {__version__}, Python {sys.version.split()[0]}, ")
    assert lines[0].count("Python") == 1
    assert any(line.startswith("torch") and torch.__version__ in line for line in lines)


def test_it_says_what_banks_do(capsys: pytest.CaptureFixture[str]) -> None:
    screen = PrototypeBank(torch.ones(3, 512)).screen
    assert f'screen="auto" is {screen}' in shown(capsys)


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"ONEDNN_MAX_CPU_ISA": "AVX2"}, "ONEDNN_MAX_CPU_ISA=AVX2 keeps oneDNN from using VNNI"),
        ({"DNNL_MAX_CPU_ISA": "avx512_core"}, "ONEDNN_MAX_CPU_ISA=avx512_core keeps oneDNN"),
        ({"ONEDNN_MAX_CPU_ISA": "ALL"}, ""),
    ],
)
def test_why_codes_are_not_used(
    environment: dict[str, str], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_units = getattr(torch.cpu, "_is_vnni_supported", lambda: False)()
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = integers.why_not_fast("cpu")
    if not has_units:
        assert found == "this CPU has no VNNI"
    elif reason:
        assert found.startswith(reason)
    else:
        assert found in ("", "products of int8 are not exact here")
    assert integers.why_not_fast("cuda") == "it is no CPU"


def test_a_cpu_without_vnni(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False, raising=False)
    monkeypatch.setattr(integers, "is_fast", lambda device: False)
    monkeypatch.setattr(integers, "is_exact", lambda device: False)
    monkeypatch.setattr(packed, "is_packed_exact", lambda: False)
    out = shown(capsys)
    assert 'screen="auto" is float, since this CPU has no VNNI' in out
    assert "of int8 are not exact, so that int8 is refused" in out


@pytest.mark.parametrize("is_fast", [True, False])
def test_a_cpu_whose_codes_are_packed(
    is_fast: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(integers, "is_fast", lambda device: False)
    monkeypatch.setattr(integers, "why_not_fast", lambda device: "this CPU has no VNNI")
    monkeypatch.setattr(packed, "is_packed_exact", lambda: True)
    monkeypatch.setattr(packed, "is_packed_fast", lambda: is_fast)
    out = shown(capsys)
    assert "of int8 are exact, by fbgemm with queries of 7 bits" in out
    expected = "int8 codes from 256 channels and 16,777,216 coordinates on, float with fewer"
    reason = "float, since this CPU has no VNNI, and fbgemm is no faster than fp32"
    assert f'screen="auto" is {expected if is_fast else reason}' in out
    [banks] = [line for line in out.splitlines() if line.startswith("  banks")]
    assert len(banks) <= 110


def test_products_that_are_not_ieee(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounding, "operand_roundoff", lambda device: rounding.BF16)
    monkeypatch.setattr(fp64, "multiplies_in_fp64", lambda device: False)
    assert "rounded as bf16 or better; fp64's are emulated, and not used" in shown(capsys)
    monkeypatch.setattr(rounding, "operand_roundoff", lambda device: float("inf"))
    assert "rounded as nothing known: fp64 scores all" in shown(capsys)


def test_limits_and_denormals(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    if torch.set_flush_denormal(True):
        try:
            assert "denormals are flushed in this thread" in shown(capsys)
        finally:
            torch.set_flush_denormal(False)
    out = shown(capsys)
    assert "MKL_CBWR=COMPATIBLE" in out
    assert "denormals" not in out


def test_gpus_and_why_one_is_not_used(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Properties:
        total_memory = 80 * 2**30

    monkeypatch.setenv("FLASHMATCH_CACHE", str(tmp_path))
    cuda = torch.cuda
    monkeypatch.setattr(cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda, "device_count", lambda: 1)
    monkeypatch.setattr(cuda, "get_device_name", lambda device: "Abacus 100")
    monkeypatch.setattr(cuda, "get_device_properties", lambda device: Properties)
    monkeypatch.setattr(rounding, "operand_roundoff", lambda device: 0.0)
    monkeypatch.setattr(fp64, "multiplies_in_fp64", lambda device: True)
    for capability, backend in (((9, 0), "Triton for k up to 2,048"), ((7, 5), "torch, since the")):
        monkeypatch.setattr(cuda, "get_device_capability", lambda device, c=capability: c)
        out = shown(capsys)
        assert f"on cuda:0  {backend}" in out
        assert ("none checked yet" in out) == backend.startswith("Triton")
        assert f"(Abacus 100, sm_{capability[0]}{capability[1]}, 80 GiB)" in out
    room = "flashmatch.kernels.triton_backend.selfcheck"
    monkeypatch.setitem(sys.modules, f"{room}.entrance", None)
    monkeypatch.delattr(f"{room}.entrance", raising=False)
    assert "torch, since Triton cannot be imported" in machine._backend(torch.device("cuda", 0))


def test_as_a_module() -> None:
    env = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    assert "OMP_WAIT_POLICY=PASSIVE" in output_of("-m", "flashmatch", "info", env=env)
