"""What a search costs the host: launches are counted, and kernels come back."""

import pytest

pytest.importorskip("triton")

from flashmatch.kernels import dispatch
from flashmatch.kernels.triton_backend import stages
from measuring.shapes import Shape
from studies import host
from studies.host import Case


def test_each_case_is_a_line_with_its_launches(capsys: pytest.CaptureFixture) -> None:
    """Of whole pages: as many launches as tests/interpreter/test_no_waiting.py counts."""
    before = stages.settle_kernel, dispatch.why_no_triton
    cases = [
        Case("bank", Shape(3, 4096, 64)), Case("rotated bank", Shape(3, 4096, 70)),
        Case("topk, TF32", Shape(3, 9000, 64)), Case("topk, one launch", Shape(3, 100, 16)),
    ]  # fmt: skip
    assert host.run(cases) == 0
    lines = capsys.readouterr().out.splitlines()[-4:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [(name, launches) for name, _, launches, *_ in cells] == [
        ("bank", "3"), ("rotated bank", "4"), ("topk, TF32", "3"), ("topk, one launch", "1"),
    ]  # fmt: skip
    assert all(float(median) > 0 for _, _, _, median, _ in cells)
    assert (stages.settle_kernel, dispatch.why_no_triton) == before
