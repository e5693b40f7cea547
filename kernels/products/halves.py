"""Products of bf16 matrices as they are: whether proofs/bf16.py holds for them here, and whether
they are faster than fp32 products of the same numbers.

They are where there are units for them (AMX, AVX512-BF16); elsewhere torch takes ten times as long.
"""

import functools

import torch
from torch import Tensor

from ..proofs import bf16
from .race import Product, are_won

_PROBED = ((1, 9, 4), (17, 40, 33), (64, 64, 512), (512, 257, 256), (5, 33, 1 << 14))
"""Queries, prototypes, channels: of one block and of several, whole and ragged; as many queries as
a pass has."""

_TIMED = ((16, 2048, 512), (128, 2048, 256))


def serve() -> bool:
    """Whether matrices in bf16 should be multiplied as they are."""
    setting = torch.mm, getattr(torch.backends.mkldnn, "enabled", True)
    return are_exact(*setting) and are_fast(*setting)


@functools.cache
def are_exact(*setting: object) -> bool:
    """Whether products are within ``bf16.error_of``: terms of one sign and of both, of any size.

    ``setting``: says when to look again.
    """
    generator = torch.Generator("cpu").manual_seed(0)
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        return all(_are_exact(*shape, generator) for shape in _PROBED)


def _are_exact(count: int, rows: int, channels: int, generator: torch.Generator) -> bool:
    def drawn_within(n: int, spread: int) -> Tensor:
        about = {"generator": generator, "dtype": torch.float64, "device": "cpu"}
        exponents = torch.randint(-spread, spread + 1, (n, channels), **about)
        return torch.randn(n, channels, **about) * exponents.exp2()

    for spread in (0, 20):
        drawn = [drawn_within(n, spread) for n in (count, rows)]
        for q, p in (drawn, [x.abs() for x in drawn]):
            q, p = q.bfloat16(), p.bfloat16()
            products = torch.mm(p, q.T).T.double()
            exact = q.double() @ p.double().T
            sizes = q.double().norm(dim=1)[:, None] * p.double().norm(dim=1)
            if not bool(
                ((products - exact).abs() <= bf16.error_of(products, sizes, channels)).all()
            ):
                return False
    return True


@functools.cache
def are_fast(*setting: object) -> bool:
    """Whether they took less time here than fp32 products of the same shapes; timed once."""
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        return are_won([_beside_fp32(*shape) for shape in _TIMED])


def _beside_fp32(count: int, rows: int, channels: int) -> tuple[Product, Product]:
    shapes = (rows, channels), (channels, count)
    floats = [torch.ones(shape, dtype=torch.float32, device="cpu") for shape in shapes]
    p, q = (x.bfloat16() for x in floats)
    return lambda: torch.mm(p, q), lambda: torch.mm(*floats)
