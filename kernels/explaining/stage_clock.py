"""Seconds of each stage of a search, told by the functions that run; these know nothing of it."""

import sys
import time
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any, TypeVar

from ..torch_backend.candidates import Candidates
from ..torch_backend.cpu import one_pass, rescoring, shortlist
from ..torch_backend.float_scan import FloatScan
from ..torch_backend.int8_scan import Int8Scan

SCREEN, SELECT, RESCORE, CERTIFY, REST = "screen", "select", "rescore", "certify", "rest"
STAGES = (SCREEN, SELECT, RESCORE, CERTIFY, REST)

_Result = TypeVar("_Result")

_SCREENS = {
    Int8Scan.multiply: "int8",
    shortlist._multiply_halves: "bf16",
    shortlist._multiply: "fp32",
    FloatScan._screen: "fp32",
    rescoring.of_all: "fp64",
    FloatScan._scan_whole: "fp64",
}
"""What multiplies queries with all prototypes, or those of a chunk, and in what."""

_STAGES = dict.fromkeys(_SCREENS, SCREEN) | {
    shortlist._weigh: SCREEN,
    shortlist._select: SELECT,
    shortlist._most_promising: SELECT,
    Int8Scan._scan: SELECT,
    FloatScan._select: SELECT,
    Candidates.add: SELECT,
    rescoring.of_listed: RESCORE,
    Candidates._rescore: RESCORE,
    one_pass._certified: CERTIFY,
}
"""The stage of a function, and of what it calls, unless that has one of its own."""


class StageClock:
    """Time by stage of what this thread computes, and which screens multiplied."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(STAGES, 0.0)
        self.screens: list[str] = []
        """In the order in which they were first asked."""
        self._running, self._since = [REST], 0.0

    def timed(self, call: Callable[[], _Result]) -> _Result:
        """What ``call`` returns. Another profiler of this thread sees nothing of it."""
        before = sys.getprofile()
        self._since = time.perf_counter()
        sys.setprofile(self._note)
        try:
            return call()
        finally:
            sys.setprofile(before)
            self._lap()
            self._running = [REST]

    def _note(self, frame: FrameType, event: str, _: Any) -> None:
        if event not in ("call", "return"):  # of Python's functions; c_call and the like are not
            return
        stage = _BY_CODE.get(frame.f_code)
        if stage is None:
            return
        self._lap()
        if event == "return":
            self._running.pop()
            return
        self._running.append(stage)
        screen = _SCREEN_BY_CODE.get(frame.f_code)
        if screen is not None and screen not in self.screens:
            self.screens.append(screen)

    def _lap(self) -> None:
        now = time.perf_counter()
        self.seconds[self._running[-1]] += now - self._since
        self._since = now


def _by_code(table: dict[Callable[..., Any], str]) -> dict[CodeType, str]:
    return {function.__code__: name for function, name in table.items()}


_BY_CODE, _SCREEN_BY_CODE = _by_code(_STAGES), _by_code(_SCREENS)
