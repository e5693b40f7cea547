"""What no search by products can beat: those products alone, which find nothing.

Codes of queries and prototypes are made ahead of time, at random: the time of a product does not
depend on its values. They lie row by row, as a bank stores them; a contiguous transpose is as good.
Products go to memory that was allocated, and touched, before the clock starts.

int8 is by torch._int_mm, bfloat16 by torch.matmul. cuBLASLt takes more than 16 rows, and multiples
of 8 besides: smaller problems are padded to that on CUDA.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from measuring.shapes import Shape

from .provider import Product, Provider, require_room

_int_mm = torch.ops.aten._int_mm.out
CHUNK = 4096  # prototypes per product on a CPU: the products stay in cache
BUFFER_BYTES = 128 * 2**20  # of products of one chunk on CUDA


def int8_product(shape: Shape, device: torch.device) -> Callable[[], Tensor]:
    """All (Q, M) int32 products in one call, as cuBLASLt takes them."""
    return _one_call(*_codes(*_padded_sizes(shape), device))


def int8_product_chunked(shape: Shape, device: torch.device) -> Callable[[], Tensor]:
    """The same, chunk by chunk."""
    queries, codes = _codes(*_padded_sizes(shape), device)
    rows = _padded(max(1, BUFFER_BYTES // (4 * len(queries))), 256)
    return _chunk_by_chunk(queries, codes, rows)


def _one_call(queries: Tensor, codes: Tensor) -> Callable[[], Tensor]:
    """For many queries, most of it is writing to memory."""
    products = queries.new_zeros(len(queries), len(codes), dtype=torch.int32)
    return lambda: _int_mm(queries, codes.T, out=products)


def _chunk_by_chunk(queries: Tensor, codes: Tensor, rows: int) -> Callable[[], Tensor]:
    """``rows`` at a time into one buffer, each product over the one before: nobody reads it."""
    buffer = queries.new_zeros(len(queries) * min(rows, len(codes)), dtype=torch.int32)

    def multiply() -> Tensor:
        products = buffer
        for chunk in codes.split(rows):
            products = buffer[: len(queries) * len(chunk)].view(len(queries), len(chunk))
            _int_mm(queries, chunk.T, out=products)
        return products

    return multiply


def _codes(Q: int, M: int, C: int, device: torch.device) -> tuple[Tensor, Tensor]:
    generator = torch.Generator(device).manual_seed(0)
    options = {"dtype": torch.int8, "generator": generator, "device": device}
    queries = torch.randint(-127, 128, (Q, C), **options)
    return queries, torch.randint(-127, 128, (M, C), **options)


def _padded_sizes(shape: Shape) -> tuple[int, int, int]:
    return max(32, _padded(shape.Q, 8)), _padded(shape.M, 8), _padded(shape.C, 16)


def _padded(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def _cpu_one_call(prototypes: Tensor, shape: Shape) -> Product:
    require_room(4 * shape.Q * shape.M, "the int32 products", prototypes)
    return _of_any(_one_call(*_codes(shape.Q, shape.M, shape.C, prototypes.device)))


def _cpu_chunked(prototypes: Tensor, shape: Shape) -> Product:
    return _of_any(_chunk_by_chunk(*_codes(shape.Q, shape.M, shape.C, prototypes.device), CHUNK))


def _cuda_one_call(prototypes: Tensor, shape: Shape) -> Product:
    require_room(4 * max(32, shape.Q) * shape.M, "the int32 products", prototypes)
    return _of_any(int8_product(shape, prototypes.device))


def _cuda_chunked(prototypes: Tensor, shape: Shape) -> Product:
    require_room((shape.Q + shape.M) * shape.C, "the codes", prototypes)
    return _of_any(int8_product_chunked(shape, prototypes.device))


def _of_any(multiply: Callable[[], Tensor]) -> Product:
    """As a search is called, with queries, of which it needs none."""
    return lambda _: multiply()


def _cuda_bfloat16(prototypes: Tensor, shape: Shape) -> Product:
    require_room(2 * shape.Q * shape.M, "the bfloat16 products", prototypes)
    table = prototypes.bfloat16()
    products = table.new_empty(shape.Q, shape.M)
    return lambda queries: torch.mm(queries.bfloat16(), table.T, out=products)


ONE_CALL = "torch._int_mm alone, one call"
CHUNK_BY_CHUNK = "torch._int_mm alone, chunk by chunk"
_ON_CUDA = "torch._int_mm alone on CUDA"
CPU_LIMITS = (
    Provider(ONE_CALL, _cpu_one_call, devices=("cpu",), answers=False),
    Provider(CHUNK_BY_CHUNK, _cpu_chunked, devices=("cpu",), answers=False),
)
GPU_LIMITS = (
    Provider(_ON_CUDA, _cuda_one_call, devices=("cuda",), answers=False),
    Provider(f"{_ON_CUDA}, chunked", _cuda_chunked, devices=("cuda",), answers=False),
    Provider("torch bfloat16 matmul alone", _cuda_bfloat16, devices=("cuda",), answers=False),
)
