"""A pytest plugin for a run of their tests: ours are put in place, and every end is written down.

A test that never comes to our code passes whatever that does, so how far each came is noted too.
Environment: THEIRS_STAND_IN, a name of ``stand_ins``; THEIRS_ENDS, the JSON file to write.
"""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

from .stand_ins import STAND_INS

OUTSIDE, INSIDE, SEARCHED = range(3)
NOT_THE_WORK = {"<module>", "__init__", "__getattr__"}


class Reach:
    """How far a test came: to no code of ours, into an adapter or retriever, as far as topk."""

    def __init__(self) -> None:
        import flashmatch.adapters
        import flashmatch.kernels
        import flashmatch.retriever

        self._kernels = str(*flashmatch.kernels.__path__)
        doors = (flashmatch.adapters, flashmatch.retriever)
        self._doors = tuple(str(*package.__path__) for package in doors)
        self.level = OUTSIDE

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        if event != "call" or frame.f_code.co_name in NOT_THE_WORK:
            return
        file = frame.f_code.co_filename
        if frame.f_code.co_name == "topk" and file.startswith(self._kernels):
            self.level = SEARCHED
            sys.setprofile(None)
        elif file.startswith(self._doors):
            self.level = INSIDE


class Ends:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._ends: dict[str, dict] = {}
        self._reach = Reach()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._reach.level = OUTSIDE
        sys.setprofile(self._reach)
        try:
            return (yield)
        finally:
            sys.setprofile(None)
            self._ends.setdefault(item.nodeid, {"end": "passed"})["reach"] = self._reach.level

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        end = self._ends.setdefault(report.nodeid, {"end": "passed"})
        if report.passed or end["end"] == "failed":
            return
        text = report.longreprtext or str(report.longrepr)
        end.update(end=report.outcome, why=getattr(report, "wasxfail", "") or _last_line(text))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if not report.passed:
            why = _last_line(report.longreprtext or str(report.longrepr))
            self._ends[report.nodeid] = {"end": report.outcome, "reach": OUTSIDE, "why": why}

    def pytest_sessionfinish(self) -> None:
        self._path.write_text(json.dumps(self._ends))


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    STAND_INS[os.environ["THEIRS_STAND_IN"]]()
    early_config.pluginmanager.register(Ends(Path(os.environ["THEIRS_ENDS"])))


def _last_line(text: str) -> str:
    errors = [line[1:].strip() for line in text.splitlines() if line.startswith("E ")]
    return (errors or text.splitlines() or [""])[0]
