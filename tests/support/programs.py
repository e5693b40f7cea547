"""Programs, and calls in threads, that are waited for."""

import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def output_of(*arguments: object, **options: Any) -> str:
    """What a Python of its own prints; a failure is an AssertionError that shows its errors."""
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def in_threads(call: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    """What ``call`` returns for each, in a thread each; or what one of them raises."""
    pool = ThreadPoolExecutor(len(items := list(items)))
    try:
        return list(pool.map(call, items, timeout=120))
    finally:
        pool.shutdown(wait=False)
