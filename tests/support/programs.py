"""Programs, and calls in threads, that are waited for."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def output_of(*arguments: object, timeout: float | None = None, **options: Any) -> str:
    """What a Python of its own prints; a failure is an AssertionError that shows its errors.

    After ``timeout`` seconds, TimeoutExpired: it is killed, with all that it has started. A forked
    child that waits for ever may take a processor.
    """
    command, pipe = [sys.executable, *map(str, arguments)], subprocess.PIPE
    options |= {"stdout": pipe, "stderr": pipe, "text": True, "start_new_session": True}
    with subprocess.Popen(command, **options) as program:
        try:
            printed, errors = program.communicate(timeout=timeout)
        except BaseException:
            os.killpg(program.pid, signal.SIGKILL)
            raise
    assert program.returncode == 0, printed + errors
    return printed


def in_threads(call: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    """What ``call`` returns for each, in a thread each; or what one of them raises."""
    pool = ThreadPoolExecutor(len(items := list(items)))
    try:
        return list(pool.map(call, items, timeout=120))
    finally:
        pool.shutdown(wait=False)
