"""What a search by Triton costs the host: a whole call, but the launches themselves.

Kernels are stubs that return at once, so that no GPU is needed: what Triton spends on a launch is
not in it, and tensors are made by the CPU's allocator. Nothing is searched, so nothing is gated.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from unittest.mock import patch

import torch

from measuring import ledger
from measuring.shapes import Shape, make
from measuring.table import markdown
from measuring.timing import interleave, seconds_of

CPU = torch.device("cpu")
BAR = 150  # microseconds, of a bank's search
SAMPLES, SAMPLE_SECONDS = 30, 10e-3
HEAD = ("search", "Q x M x C, k", "launches", "microseconds", "p25 to p75")
Search = Callable[[], object]


@dataclass(frozen=True)
class Case:
    search: str  # a bank's where it says so, of ``topk`` otherwise
    shape: Shape

    def __str__(self) -> str:
        return f"{self.search}, {self.shape}"


CASES = (
    Case("bank", Shape(16, 102_400, 128)),  # of two rounds
    Case("rotated bank", Shape(16, 102_400, 128)),
    Case("bank", Shape(16, 8192, 128)),
    Case("bank", Shape(1024, 102_400, 128)),
    Case("topk, TF32", Shape(16, 102_400, 128)),
    Case("topk, coded in passing", Shape(1024, 102_400, 128)),
    Case("topk, one launch", Shape(16, 1024, 128)),
)


def run(cases: Sequence[Case] = CASES) -> int:
    """Print a table of medians."""
    print(
        f"{ledger.device_name(CPU)}; kernels are stubs; the bar of a bank is {BAR} microseconds\n"
    )
    with _stubs() as launched:
        calls = {str(case): _search_of(case) for case in cases}
        launches, estimates = {}, {}
        for name, call in calls.items():
            launched.clear()
            call()
            launches[name] = len(launched)
            estimates[name] = seconds_of(call, CPU, calls=50)
        clocks = {
            name: lambda count, call=call: seconds_of(call, CPU, count)
            for name, call in calls.items()
        }
        timings, failed = interleave(
            clocks, estimates, SAMPLES * SAMPLE_SECONDS, most=SAMPLES, sample=SAMPLE_SECONDS
        )
    for error in failed.values():
        raise error
    rows = []
    for case in cases:
        name = str(case)
        p25, middle, p75 = (
            f"{1e3 * ms:.0f}"
            for ms in (timings[name].p25, timings[name].median_ms, timings[name].p75)
        )
        title, count = case.shape.title, str(launches[name])
        rows.append((case.search, title, count, middle, f"{p25} to {p75}"))
    print(markdown(HEAD, rows))
    return 0


class _Stub:
    """A kernel that notes that it is launched."""

    def __init__(self, launched: list[None]) -> None:
        self.launched = launched

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda *args, **kwargs: self.launched.append(None)


@contextmanager
def _stubs() -> Iterator[list[None]]:
    """The Triton backend takes every search, and nothing that it launches runs."""
    from flashmatch.kernels import dispatch
    from flashmatch.kernels.triton_backend import stages, vector_search
    from flashmatch.kernels.triton_backend.selfcheck import verdicts

    launched: list[None] = []
    with ExitStack() as stack:
        stack.enter_context(patch.object(dispatch, "why_no_triton", lambda device: ""))
        stack.enter_context(patch.object(verdicts, "why_unproven", lambda device, used: ""))
        for module in (stages, vector_search):
            for name in [name for name in vars(module) if name.endswith("_kernel")]:
                stack.enter_context(patch.object(module, name, _Stub(launched)))
        yield launched


def _search_of(case: Case) -> Search:
    from flashmatch import PrototypeBank, topk

    (queries, rows), k = make(case.shape, CPU), case.shape.k
    if "bank" not in case.search:
        return lambda: topk(queries, rows, k, nonfinite="exclude")
    if "rotated" in case.search:
        rows[:, 7] *= 100
    bank = PrototypeBank(rows, screen="int8", nonfinite="exclude")
    return lambda: bank.topk(queries, k)
