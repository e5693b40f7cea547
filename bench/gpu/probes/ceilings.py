"""What the device can do at most: the vendor's products, a bare copy, the launch of nothing."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import torch

from measuring.ledger import described
from measuring.shapes import Shape
from measuring.timing import seconds_of, within
from providers.limits import int8_product, int8_product_chunked
from providers.torch_peers import float32_precision

from ..figures import figure, write

PART = "ceilings"
SHAPES = (
    Shape(1024, 1_000_000, 768),
    Shape(1024, 262144, 512),
    Shape(16384, 100_000, 128),
    Shape(8192, 65536, 256),
)
Call = Callable[[], object]


@dataclass(frozen=True)
class Ceiling:
    what: str
    shape: str
    work: Callable[[float], float]  # seconds of a call to what is done in the unit
    unit: str
    prepare: Callable[[], Call]

    def __str__(self) -> str:
        return f"{self.what} {self.shape}".strip()


def run(device: torch.device, folder: Path, minutes: float, tiny: bool = False) -> int:
    """Every ceiling that can be had; one that fails is a figure that says so."""
    failed = 0
    side = 64 if tiny else 8192
    shapes = (Shape(32, 64, 32),) if tiny else SHAPES
    for wanted in within(minutes, list(_ceilings(side, shapes, device))):
        value, status = None, "ok"
        try:
            value = wanted.work(seconds_per_call(wanted.prepare(), device))
        except Exception as error:
            status = described(error)
            failed += 1
        found = figure(device, PART, wanted.what, wanted.shape, value, wanted.unit, status)
        write([found], folder)
        torch.cuda.empty_cache()
    return 1 if failed else 0


def _ceilings(side: int, shapes: tuple[Shape, ...], device: torch.device) -> Iterator[Ceiling]:
    square = Shape(side, side, side)
    for shape in (square, *shapes):
        flops = shape.flops

        def rate(seconds: float, flops: int = flops) -> float:
            return flops / seconds / 1e12

        label = f"{shape.Q}x{shape.M}x{shape.C}"
        for dtype in ("bfloat16", "float16", "float32", "tf32"):
            if shape is square or dtype in ("bfloat16", "float32"):
                prepare = partial(_product, shape, dtype, device)
                yield Ceiling(f"{dtype} product", label, rate, "TFLOP/s", prepare)
        whole = partial(int8_product, shape, device)
        yield Ceiling("int8 product", label, rate, "TOP/s", whole)
        chunked = partial(int8_product_chunked, shape, device)
        yield Ceiling("int8 product, chunked", label, rate, "TOP/s", chunked)
    size = 16 * side * side
    copy = partial(_copy, size, device)
    yield Ceiling("copy", f"{size >> 20} MiB", lambda s: 2 * size / s / 1e9, "GB/s", copy)
    for what, prepare in (("launch, torch", _tiny_op), ("launch, empty kernel", _empty_kernel)):
        yield Ceiling(what, "", lambda s: s * 1e6, "us", partial(prepare, device))


def _product(shape: Shape, dtype: str, device: torch.device) -> Call:
    kind = torch.float32 if dtype == "tf32" else getattr(torch, dtype)
    a = torch.randn(shape.Q, shape.C, device=device).to(kind)
    b = torch.randn(shape.M, shape.C, device=device).to(kind)
    products = a.new_empty(shape.Q, shape.M)

    def multiply() -> None:
        with float32_precision("high" if dtype == "tf32" else "highest"):
            torch.mm(a, b.T, out=products)

    return multiply


def _copy(size: int, device: torch.device) -> Call:
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def _tiny_op(device: torch.device) -> Call:
    one = torch.zeros(1, device=device)
    return lambda: one.zero_()


def _empty_kernel(device: torch.device) -> Call:
    from .empty_kernel import empty_kernel

    argument = torch.zeros(1, device=device)
    return lambda: empty_kernel[(1,)](argument)


def seconds_per_call(call: Call, device: torch.device, samples: int = 10) -> float:
    """The median of samples of enough calls in a row to be out of the clock's noise."""
    call()
    once = max(seconds_of(call, device), 1e-7)
    calls = max(1, min(1000, round(5e-3 / once)))
    samples = samples if once * calls < 0.2 else 3
    return median(seconds_of(call, device, calls) for _ in range(samples))
