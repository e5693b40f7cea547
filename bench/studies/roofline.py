"""How fast the machine could be, measured in the same run.

The limit of a search is the slower of two things that nothing avoids which multiplies the inputs as
they are (or widened to fp32, where that is faster): a bare matrix product, at the better rate of a
large square one and of this shape's own; and reading both inputs once, at the rate of a bare copy.
A search that screens in a narrower type can beat the first.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from measuring.shapes import Shape
from measuring.timing import seconds_of

SLAB_BYTES = 64 * 2**20  # of scores: as many prototypes as that allows stand for all of them
ENOUGH_SECONDS = 1.0


class Roofline:
    """Rates of one device, each measured when first asked for."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._square: dict[torch.dtype, float] = {}
        self._copy: float | None = None

    def limit_ms(self, shape: Shape, queries: Tensor, prototypes: Tensor) -> float:
        rows = max(1, SLAB_BYTES // (4 * shape.Q))
        slab = prototypes[:rows]
        rate = max(
            self._square_rate(shape.torch_dtype),
            self._square_rate(torch.float32),
            2 * shape.Q * len(slab) * shape.C / self._best(lambda: queries @ slab.T),
        )
        return 1e3 * max(shape.flops / rate, shape.input_bytes / self._copy_rate())

    def _square_rate(self, dtype: torch.dtype) -> float:
        """FLOP/s of a square product; fp32 is fp32, not TF32."""
        if dtype not in self._square:
            n = 8192 if self.device.type == "cuda" else 1024
            a = torch.randn(n, n, device=self.device).to(dtype)
            self._square[dtype] = 2 * n**3 / self._best(lambda: a @ a)
        return self._square[dtype]

    def _copy_rate(self) -> float:
        """Bytes moved per second, read and written."""
        if self._copy is None:
            size = 2**30 if self.device.type == "cuda" else 2**28
            source = torch.zeros(size, dtype=torch.uint8, device=self.device)
            target = torch.empty_like(source)
            self._copy = 2 * size / self._best(lambda: target.copy_(source))
        return self._copy

    def _best(self, call: Callable[[], object]) -> float:
        """Seconds of the fastest of a few calls, the first of which only warms up."""
        spent = first = seconds_of(call, self.device)
        times = []
        while len(times) < 8 and (spent < ENOUGH_SECONDS or not times):
            times.append(seconds_of(call, self.device))
            spent += times[-1]
        return min(*times, first)
