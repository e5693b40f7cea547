"""What no search by int8 products can beat on a CPU: those products alone, which find nothing.

Codes of queries and prototypes are made ahead of time, at random: the time of a product does not
depend on its values. The codes lie row by row, as a bank stores them; a contiguous transpose is
as good. Both limits write into memory that was allocated, and touched, before the clock starts.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from measuring.shapes import Shape

from .provider import Provider, require_room

_int_mm = torch.ops.aten._int_mm.out
CHUNK = 4096  # prototypes per product of the second limit: the products stay in cache


def _one_call(prototypes: Tensor, shape: Shape) -> Callable[[Tensor], Tensor]:
    """The whole (Q, M) matrix at once: for many queries, most of it is writing to memory."""
    require_room(4 * shape.Q * shape.M, "the int32 products", prototypes)
    queries, codes = _codes(shape)
    products = torch.zeros(shape.Q, shape.M, dtype=torch.int32)
    return lambda _: _int_mm(queries, codes.T, out=products)


def _chunk_by_chunk(prototypes: Tensor, shape: Shape) -> Callable[[Tensor], Tensor]:
    """``CHUNK`` prototypes at a time into one buffer, each product over the one before."""
    queries, codes = _codes(shape)
    buffer = torch.zeros(shape.Q * min(CHUNK, shape.M), dtype=torch.int32)

    def multiply(_: Tensor) -> Tensor:
        products = buffer
        for chunk in codes.split(CHUNK):
            products = buffer[: shape.Q * len(chunk)].view(shape.Q, len(chunk))
            _int_mm(queries, chunk.T, out=products)
        return products

    return multiply


def _codes(shape: Shape) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def rows(n: int) -> Tensor:
        return torch.randint(-127, 128, (n, shape.C), dtype=torch.int8, generator=generator)

    return rows(shape.Q), rows(shape.M)


ONE_CALL = "torch._int_mm alone, one call"
CHUNK_BY_CHUNK = "torch._int_mm alone, chunk by chunk"
CPU_LIMITS = (
    Provider(ONE_CALL, _one_call, devices=("cpu",), answers=False),
    Provider(CHUNK_BY_CHUNK, _chunk_by_chunk, devices=("cpu",), answers=False),
)
