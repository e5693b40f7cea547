"""What a search by Triton costs the host: a whole call, but the launches themselves.

Kernels are stubs that return at once, so that no GPU is needed: what Triton spends on a launch is
not in it, and tensors are made by the CPU's allocator. Nothing is searched, so nothing is gated.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from measuring import ledger
from measuring.table import markdown
from measuring.timing import interleave, seconds_of

CPU = torch.device("cpu")
BAR = 150  # microseconds, of a bank's search
SAMPLES, SAMPLE_SECONDS = 30, 10e-3
HEAD = ("search", "Q x M x C", "launches", "microseconds", "p25 to p75")
Search = Callable[[], object]


@dataclass(frozen=True)
class Case:
    search: str  # a bank's where it says so, of ``topk`` otherwise
    Q: int
    M: int
    C: int
    k: int = 10

    def __str__(self) -> str:
        return f"{self.search}, {self.Q} x {self.M} x {self.C}"


CASES = (
    Case("bank", 16, 102_400, 128),  # of two rounds
    Case("rotated bank", 16, 102_400, 128),
    Case("bank", 16, 8192, 128),
    Case("bank", 1024, 102_400, 128),
    Case("topk, TF32", 16, 102_400, 128),
    Case("topk, coded in passing", 1024, 102_400, 128),
    Case("topk, one launch", 16, 1024, 128),
)


def run(cases: Sequence[Case] = CASES) -> int:
    """Print a table of medians; nothing else runs in the process meanwhile, but on the machine."""
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
        found = timings[str(case)]
        spread = f"{1e3 * found.p25:.0f} to {1e3 * found.p75:.0f}"
        shape = f"{case.Q:,} x {case.M:,} x {case.C}"
        count = str(launches[str(case)])
        rows.append((case.search, shape, count, f"{1e3 * found.median_ms:.0f}", spread))
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
    stubs: list[tuple[object, str, object]] = [
        (dispatch, "why_no_triton", lambda device: ""),
        (verdicts, "why_unproven", lambda device, used: ""),
    ]
    for module in (stages, vector_search):
        kernels = [name for name in vars(module) if name.endswith("_kernel")]
        stubs += [(module, name, _Stub(launched)) for name in kernels]
    kept = [(module, name, getattr(module, name)) for module, name, _ in stubs]
    try:
        for module, name, stub in stubs:
            setattr(module, name, stub)
        yield launched
    finally:
        for module, name, own in kept:
            setattr(module, name, own)


def _search_of(case: Case) -> Search:
    from flashmatch import PrototypeBank, topk

    generator = torch.Generator().manual_seed(0)
    queries, rows = (torch.randn(n, case.C, generator=generator) for n in (case.Q, case.M))
    if "bank" not in case.search:
        return lambda: topk(queries, rows, case.k, nonfinite="exclude")
    if "rotated" in case.search:
        rows[:, 7] *= 100
    bank = PrototypeBank(rows, screen="int8", nonfinite="exclude")
    return lambda: bank.topk(queries, case.k)
