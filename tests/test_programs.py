"""What other tests wait for fails when it should."""

import pytest
from programs import in_threads, output_of


def test_a_program_that_fails_shows_its_errors() -> None:
    assert output_of("-c", "import sys; print(sys.argv[1])", 7) == "7\n"
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        output_of("-c", "1 / 0")


def test_what_a_thread_raises_is_raised() -> None:
    assert in_threads(abs, [-1, 2, -3]) == [1, 2, 3]
    with pytest.raises(ZeroDivisionError):
        in_threads(lambda n: 1 // n, range(3))
