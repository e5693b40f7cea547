"""When a bank's codes are searched on a CPU, and when its vectors are."""

import pytest

from flashmatch.kernels.torch_backend.cpu.plan import beats_codes


@pytest.mark.parametrize(
    ("queries", "rows", "k", "are_cast", "are_packed", "in_one_pass"),
    [
        (1, 1 << 15, 10, False, False, True),
        (1, 1 << 16, 10, False, False, False),
        (16, 1 << 14, 10, False, False, True),
        (16, 1 << 15, 10, False, False, False),
        (1, 1 << 15, 10, True, False, False),
        (1024, 1 << 17, 100, False, False, False),
        (1024, 1 << 17, 100, False, True, True),
        (1024, 1 << 17, 10, False, True, False),
        (1, 1 << 18, 100, False, True, False),
    ],
)
def test_what_is_searched(
    queries: int, rows: int, k: int, are_cast: bool, are_packed: bool, in_one_pass: bool
) -> None:
    assert beats_codes(queries, rows, 512, k, are_cast, are_packed) == in_one_pass
