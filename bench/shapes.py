"""The shapes that get ledger rows, and the data they are filled with."""

from dataclasses import dataclass

import torch
from torch import Tensor

SEED = 20261122


@dataclass(frozen=True)
class Shape:
    """One search: Q queries against M prototypes of C channels, k best of each."""

    Q: int
    M: int
    C: int
    k: int = 10
    metric: str = "cosine"
    dtype: str = "float32"

    def __str__(self) -> str:
        return f"{self.Q}x{self.M}x{self.C}/{self.k}/{self.metric}/{self.dtype}"

    @property
    def torch_dtype(self) -> torch.dtype:
        return getattr(torch, self.dtype)

    @property
    def flops(self) -> int:
        return 2 * self.Q * self.M * self.C

    @property
    def input_bytes(self) -> int:
        return (self.Q + self.M) * self.C * self.torch_dtype.itemsize


def parse(text: str) -> Shape:
    """``QxMxC[/k[/metric[/dtype]]]``, the form in which shapes are printed."""
    try:
        sizes, *rest = text.split("/")
        k, metric, dtype = [*rest, *("10", "cosine", "float32")[len(rest) :]]
        Q, M, C = map(int, sizes.split("x"))
        return Shape(Q, M, C, int(k), metric, dtype)
    except ValueError:
        raise ValueError(f"a shape is QxMxC[/k[/metric[/dtype]]]; got {text!r}") from None


def make(shape: Shape, device: torch.device) -> tuple[Tensor, Tensor]:
    """Gaussian queries and prototypes of about unit norm: the same ones for every provider."""
    generator = torch.Generator(device).manual_seed(SEED)

    def rows(n: int) -> Tensor:
        x = torch.randn(n, shape.C, generator=generator, device=device)
        return x.mul_(shape.C**-0.5).to(shape.torch_dtype)

    prototypes = rows(shape.M)
    return rows(shape.Q), prototypes


QUICK = (Shape(1, 100, 64), Shape(16, 1000, 128), Shape(64, 16384, 128))

SMALL = (
    Shape(1, 100, 64),
    Shape(8, 1000, 128),
    Shape(16, 1000, 128),
    Shape(64, 1000, 512),
    Shape(32, 12612, 2048),
)

# The first six have bars; see bars.py.
CPU = (
    Shape(256, 262144, 128),
    Shape(1, 262144, 512),
    Shape(16, 262144, 512),
    Shape(256, 262144, 768),
    Shape(1024, 131072, 512),
    Shape(1024, 131072, 512, k=100),
    Shape(1024, 131072, 512, k=1),
    Shape(1024, 131072, 512, k=1000),
    Shape(256, 262144, 128, metric="dot"),
    Shape(256, 262144, 128, metric="l2"),
    Shape(256, 262144, 128, dtype="float16"),
    *SMALL,
    Shape(64, 131072, 512),
    Shape(64, 131072, 512, dtype="bfloat16"),
)

# The first ten are shapes that other projects publish numbers for, or that people ask about:
# classification against a training set, clustering, patch banks, one query against millions.
GPU = (
    Shape(16384, 100_000, 128),
    Shape(10_000, 1_000_000, 128, k=100),
    Shape(100_000, 100_000, 128),
    Shape(1024, 1_000_000, 768),
    Shape(64, 1_000_000, 768, k=128),
    Shape(1, 10_000_000, 128),
    Shape(8192, 65536, 256, k=16),
    Shape(100_352, 20_000, 1536, k=1),
    Shape(65536, 1000, 512, k=5),
    Shape(50_000, 1_280_000, 768, k=200),
    *(
        Shape(Q, M, C, k, metric, dtype)
        for Q, M, C, k in ((16384, 100_000, 128, 10), (1024, 1_000_000, 768, 10))
        for metric, dtype in (("dot", "float32"), ("l2", "float32"), ("cosine", "bfloat16"))
    ),
    Shape(1024, 1_000_000, 768, dtype="float16"),
    Shape(256, 262144, 128),
    *SMALL,
)

QUICK_GPU = (*QUICK, Shape(256, 262144, 128), Shape(8192, 65536, 256, k=16))
