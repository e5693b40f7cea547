"""Products of int8 codes by fbgemm, for CPUs without VNNI: prototypes packed ahead, queries in
seven bits, so that no pair of products saturates int16 (proofs/int8.py).

torch has this as an operator of its quantized layers, which other builds of it may lack.
"""

# pyright: reportPrivateImportUsage=false

import functools
import warnings

import torch
from torch import Tensor

from ..proofs.int8 import LARGEST_CODE, LARGEST_PACKED_QUERY_CODE
from .race import Product, are_won

_ZERO_POINT = LARGEST_PACKED_QUERY_CODE + 1
"""Queries in [-63, 63] become unsigned numbers in [1, 127]."""

_ENGINES = ("fbgemm", "x86")
"""Of torch.backends.quantized: those whose packs are fbgemm's."""

LEAST_CHANNELS = 256
"""Vectors of fewer are searched as fast in float (decision 16), and their packs hold more padding
than codes."""

_BLOCK_CHANNELS, _BYTES_OF_ROW = 512, 4
"""fbgemm pads widths to whole blocks, of 512 channels with AVX2 and fewer with AVX-512, and keeps
the sum of each row."""

_EXTREMES = ((1, 9, 4), (17, 40, 33), (5, 33, 512), (130, 65, 1000), (3, 9, 1 << 15))
"""Queries, prototypes, channels: of one block and of several, whole and ragged."""

_TIMED = ((16, 2048, 256), (64, 1024, 512))
"""As ``_EXTREMES``: fp32 took 2.0 and 1.8 times as long on a Xeon (Sapphire Rapids) held to AVX2.
Smaller ones stay in cache, as those of a bank do not."""


def pack(codes: Tensor) -> object:
    """Codes (P, C) int8 as ``multiply`` takes them: a script object, which others must not see."""
    engine = torch.backends.quantized.engine
    if engine in _ENGINES:
        return _pack(codes)
    torch.backends.quantized.engine = _ENGINES[0]
    try:
        return _pack(codes)
    finally:
        torch.backends.quantized.engine = engine


def _pack(codes: Tensor) -> object:
    quantized = torch._make_per_tensor_quantized_tensor(codes, 1.0, 0)
    return torch.ops.quantized.linear_prepack(quantized, None)


def unpack(packed: object) -> Tensor:
    """The codes (P, C) int8 that were packed."""
    return torch.ops.quantized.linear_unpack(packed)[0].int_repr()


def multiply_packed(queries: Tensor, packed: object) -> Tensor:
    """Whole numbers (Q, C) fp32 in [-63, 63], with P packed prototypes -> (Q, P) fp32.

    Each is a sum of int32, rounded to nearest: exact below 2^24.
    """
    multiply = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32
    return multiply(queries, 1.0, _ZERO_POINT, packed)


def packed_bytes(rows: int, channels: int) -> int:
    """Bytes that packs of so many rows hold at most."""
    return rows * (-(-channels // _BLOCK_CHANNELS) * _BLOCK_CHANNELS + _BYTES_OF_ROW)


@functools.cache
def is_packed_exact() -> bool:
    """Whether these products are there, and without loss, even of the largest codes."""
    try:
        _quiet()
        return all(_is_exact(*shape) for shape in _EXTREMES)
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, RuntimeError):  # no such operator, no such engine
        return False


def _is_exact(count: int, rows: int, channels: int) -> bool:
    """Of the largest codes of either sign, and of some of any size."""
    generator = torch.Generator("cpu").manual_seed(0)
    shapes = ((count, channels), LARGEST_PACKED_QUERY_CODE), ((rows, channels), LARGEST_CODE)
    drawn = [
        torch.randint(-most, most + 1, shape, generator=generator, device="cpu")
        for shape, most in shapes
    ]
    largest = [torch.full(shape, most, device="cpu") for shape, most in shapes]
    for query, prototype in (largest, (largest[0], -largest[1]), (-largest[0], largest[1]), drawn):
        products = multiply_packed(query.float(), pack(prototype.to(torch.int8)))
        if not torch.equal(products, (query.double() @ prototype.double().T).float()):
            return False
    return True


@functools.cache
def is_packed_fast() -> bool:
    """Whether they are exact, and took less time here than fp32 products of the same shapes.

    Timed once, in some milliseconds.
    """
    return is_packed_exact() and are_won([_packed_beside_fp32(*shape) for shape in _TIMED])


def _packed_beside_fp32(count: int, rows: int, channels: int) -> tuple[Product, Product]:
    queries = torch.ones(count, channels, device="cpu")
    codes = torch.ones(rows, channels, dtype=torch.int8, device="cpu")
    floats, packed = codes.float(), pack(codes)
    return lambda: multiply_packed(queries, packed), lambda: torch.mm(queries, floats.T)


@functools.cache
def _quiet() -> None:
    """Make torch say now, unheard, that quantized tensors may go; it says so once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pack(torch.zeros(1, 4, dtype=torch.int8, device="cpu"))
