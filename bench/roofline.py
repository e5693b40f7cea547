"""How fast the machine could be, measured in the same run.

The limit of a search is the slower of two things nothing can avoid when it multiplies in the
inputs' own dtype: the matrix product at the rate of a bare large one, and reading both inputs once
at the rate of a bare copy. A search that screens in a narrower type can beat the first.
"""

from collections.abc import Callable

import torch

from measure import seconds_of
from shapes import Shape


class Roofline:
    """Rates of one device, each measured when first asked for."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._matmul: dict[torch.dtype, float] = {}
        self._copy: float | None = None

    def limit_ms(self, shape: Shape) -> float:
        compute = shape.flops / self.matmul_rate(shape.torch_dtype)
        memory = shape.input_bytes / self.copy_rate()
        return 1e3 * max(compute, memory)

    def matmul_rate(self, dtype: torch.dtype) -> float:
        """FLOP/s of a square product; fp32 is fp32, not TF32."""
        if dtype not in self._matmul:
            n = 8192 if self.device.type == "cuda" else 1024
            a = torch.randn(n, n, device=self.device).to(dtype)
            self._matmul[dtype] = 2 * n**3 / self._best(lambda: a @ a)
        return self._matmul[dtype]

    def copy_rate(self) -> float:
        """Bytes moved per second, read and written."""
        if self._copy is None:
            size = 2**30 if self.device.type == "cuda" else 2**28
            source = torch.zeros(size, dtype=torch.uint8, device=self.device)
            target = torch.empty_like(source)
            self._copy = 2 * size / self._best(lambda: target.copy_(source))
        return self._copy

    def _best(self, call: Callable[[], object]) -> float:
        call()
        return min(seconds_of(call, self.device) for _ in range(5))
