"""What no search by products can beat on a GPU: the vendor's products alone, which find nothing.

int8 by torch._int_mm (cuBLASLt), the codes made ahead of time; bfloat16 by torch.matmul. cuBLASLt
takes more than 16 rows, and multiples of 8 besides: smaller problems are padded to that.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from measuring.shapes import Shape

from .provider import Product, Provider, require_room

_int_mm = torch.ops.aten._int_mm.out
BUFFER_BYTES = 128 * 2**20  # of products of one chunk


def int8_product(shape: Shape, device: torch.device) -> Callable[[], Tensor]:
    """All (Q, M) int32 products in one call."""
    queries, codes = _codes(shape, device)
    products = torch.zeros(len(queries), len(codes), dtype=torch.int32, device=device)
    return lambda: _int_mm(queries, codes.T, out=products)


def int8_product_chunked(shape: Shape, device: torch.device) -> Callable[[], Tensor]:
    """The same, chunk by chunk into one buffer: what is written is read by nobody."""
    queries, codes = _codes(shape, device)
    rows = _padded(max(1, BUFFER_BYTES // (4 * len(queries))), 256)
    buffer = torch.zeros(len(queries) * min(rows, len(codes)), dtype=torch.int32, device=device)

    def multiply() -> Tensor:
        products = buffer
        for chunk in codes.split(rows):
            products = buffer[: len(queries) * len(chunk)].view(len(queries), len(chunk))
            _int_mm(queries, chunk.T, out=products)
        return products

    return multiply


def _codes(shape: Shape, device: torch.device) -> tuple[Tensor, Tensor]:
    generator = torch.Generator(device).manual_seed(0)
    width = _padded(shape.C, 16)

    def rows(n: int) -> Tensor:
        size = (n, width)
        return torch.randint(-127, 128, size, dtype=torch.int8, generator=generator, device=device)

    return rows(max(32, _padded(shape.Q, 8))), rows(_padded(shape.M, 8))


def _padded(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def _int8_alone(prototypes: Tensor, shape: Shape) -> Product:
    require_room(4 * max(32, shape.Q) * shape.M, "the int32 products", prototypes)
    multiply = int8_product(shape, prototypes.device)
    return lambda _: multiply()


def _int8_chunked(prototypes: Tensor, shape: Shape) -> Product:
    require_room((shape.Q + shape.M) * shape.C, "the codes", prototypes)
    multiply = int8_product_chunked(shape, prototypes.device)
    return lambda _: multiply()


def _bf16_alone(prototypes: Tensor, shape: Shape) -> Product:
    require_room(2 * shape.Q * shape.M, "the bfloat16 products", prototypes)
    table = prototypes.bfloat16()
    products = table.new_empty(shape.Q, shape.M)
    return lambda queries: torch.mm(queries.bfloat16(), table.T, out=products)


INT8 = "torch._int_mm alone on CUDA"
GPU_LIMITS = (
    Provider(INT8, _int8_alone, devices=("cuda",), answers=False),
    Provider(f"{INT8}, chunked", _int8_chunked, devices=("cuda",), answers=False),
    Provider("torch bfloat16 matmul alone", _bf16_alone, devices=("cuda",), answers=False),
)
