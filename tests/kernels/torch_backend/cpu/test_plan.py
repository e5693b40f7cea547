"""When a bank's codes are searched on a CPU, and when its vectors are, and how many of these."""

import pytest

from flashmatch.kernels.torch_backend.cpu.plan import beats_codes, choose_one_pass


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


def test_more_are_listed_than_are_looked_at_at_first() -> None:
    """But of bf16 products, by which far more look alike: those are all looked at."""
    shape = 512, 1 << 16, 512, 10, 1 << 28, 2
    plan, rounded = choose_one_pass(*shape), choose_one_pass(*shape, are_rounded=True)
    assert plan is not None
    assert rounded is not None
    assert 10 < plan.first < plan.size < rounded.first == rounded.size
