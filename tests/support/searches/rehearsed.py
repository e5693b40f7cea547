"""A pytest plugin: what needs a CUDA device runs on a pretended one, without a GPU.

A test that names a line by ``reaches`` has to run it, in one of its cases at least. Of many cases
of a test some are run, and all where FLASHMATCH_EXAMPLES asks for more than usual.
"""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from pretended import pretended_device
from reached import KERNELS, line_numbers

CASES = 3
"""Of each test: so many take a minute together."""

_pretended = ExitStack()
_missing: dict[str, set[tuple[str, str]]] = {}
"""By test: the lines that none of its cases has run."""


def pytest_configure() -> None:
    _pretended.enter_context(pretended_device())


def pytest_unconfigure() -> None:
    _pretended.close()


def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    """Keep the first case of each test, the last, and those halfway."""
    if os.environ.get("FLASHMATCH_EXAMPLES"):
        return
    cases: dict[tuple[Path, str], list[pytest.Function]] = {}
    for item in items:
        cases.setdefault((item.path, item.originalname), []).append(item)
    items[:] = [each[i] for each in cases.values() for i in sorted(_spread(len(each)))]


def _spread(count: int) -> set[int]:
    return {i * (count - 1) // (CASES - 1) for i in range(CASES)}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Function) -> Iterator[None]:
    lines = getattr(item.function, "reached", [])
    missing = _missing.setdefault(item.originalname, {x for x in lines if line_numbers(*x)})
    at = {(str(KERNELS / x[0]), number): x for x in missing for number in line_numbers(*x)}
    files = {file for file, _ in at}
    names: dict[str, str] = {}

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        name = frame.f_code.co_filename
        if "kernels" not in name:
            return None
        file = names.setdefault(name, str(Path(name).resolve()))
        if file not in files:
            return None
        missing.discard(at.get((file, frame.f_lineno), ("", "")))
        return trace

    for traced in (threading, sys):
        traced.settrace(trace if missing else None)
    try:
        return (yield)
    finally:
        for traced in (threading, sys):
            traced.settrace(None)


def pytest_sessionfinish(session: pytest.Session) -> None:
    unreached = {test: lines for test, lines in _missing.items() if lines}
    for test, lines in unreached.items():
        for path, line in sorted(lines):
            print(f"\n{test} does not reach, in {path}: {line}")
    if unreached:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
