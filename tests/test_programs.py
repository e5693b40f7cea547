"""What other tests wait for fails when it should."""

import os
import subprocess
import time
from pathlib import Path

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


FORKS = """
import os, sys, time
os.fork()
while True:  # each
    with open(sys.argv[1], "a") as file:
        file.write("still here")
    time.sleep(0.01)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_program_that_takes_too_long_is_killed_with_its_children(tmp_path: Path) -> None:
    signs = tmp_path / "signs"
    with pytest.raises(subprocess.TimeoutExpired):
        output_of("-c", FORKS, signs, timeout=2)
    size = signs.stat().st_size
    time.sleep(0.5)
    assert signs.stat().st_size == size > 0
