"""How fast this machine multiplies and reads at best: what a search could take, were it that alone.

Measured when asked for, in some 70 ms (AMD EPYC, two threads), on as many threads as a search uses.
"""

import time
from collections.abc import Callable

import torch

from ..products import choice
from ..products.integers import multiply_codes
from ..products.packed import multiply_packed, pack

_ROWS = 4096
_QUERIES = 256
"""More multiply no faster."""
_READ_BYTES = 1 << 26
_ROUNDS = 3

_Product = Callable[[], object]


def multiplications_per_second(screen: str, queries: int, channels: int) -> float:
    """Of ``queries`` with rows of so many channels, as this screen multiplies them on the CPU."""
    count = min(queries, _QUERIES)
    return count * _ROWS * channels / _fastest(_PRODUCTS[screen](count, channels))


def bytes_per_second() -> float:
    """Read from memory."""
    memory = torch.ones(_READ_BYTES // 4, device="cpu")
    return memory.nbytes / _fastest(memory.sum)


def _fastest(call: _Product) -> float:
    call()
    return min(_seconds(call) for _ in range(_ROUNDS))


def _seconds(call: _Product) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _of_codes(count: int, channels: int) -> _Product:
    mine, rows = (torch.ones(n, channels, dtype=torch.int8, device="cpu") for n in (count, _ROWS))
    if choice.are_codes_packed("cpu"):
        packed, floats = pack(rows), mine.float()
        return lambda: multiply_packed(floats, packed)
    out = torch.empty(count * _ROWS, dtype=torch.int32, device="cpu")
    return lambda: multiply_codes(mine, rows, out)


def _in(dtype: torch.dtype) -> Callable[[int, int], _Product]:
    def product(count: int, channels: int) -> _Product:
        mine, rows = (torch.ones(n, channels, dtype=dtype, device="cpu") for n in (count, _ROWS))
        out = torch.empty(_ROWS, count, dtype=dtype, device="cpu")
        return lambda: torch.mm(rows, mine.T, out=out)

    return product


_PRODUCTS = {
    "int8": _of_codes,
    "bf16": _in(torch.bfloat16),
    "fp32": _in(torch.float32),
    "fp64": _in(torch.float64),
}
