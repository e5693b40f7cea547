"""When a bank's codes are searched on a CPU, and when its vectors are."""

import pytest

from flashmatch.kernels.torch_backend.cpu.plan import beats_codes


@pytest.mark.parametrize(
    ("queries", "rows", "k", "what", "in_one_pass"),
    [
        (1, 1 << 15, 10, "", True),
        (1, 1 << 16, 10, "", False),
        (16, 1 << 14, 10, "", True),
        (16, 1 << 15, 10, "", False),
        (1, 1 << 15, 10, "are_cast", False),
        (1024, 1 << 17, 100, "", False),
        (1024, 1 << 17, 100, "are_packed", True),
        (1024, 1 << 17, 10, "are_packed", False),
        (1, 1 << 18, 100, "are_packed", False),
        (1024, 1 << 17, 100, "are_rounded", True),
        (1024, 1 << 17, 10, "are_rounded", False),
        (128, 1 << 17, 100, "are_rounded", False),
    ],
)
def test_what_is_searched(queries: int, rows: int, k: int, what: str, in_one_pass: bool) -> None:
    about = {name: name == what for name in ("are_cast", "are_packed", "are_rounded")}
    assert beats_codes(queries, rows, 512, k, **about) == in_one_pass
