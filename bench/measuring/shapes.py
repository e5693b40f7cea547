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
    def title(self) -> str:
        """As tables have it that are read by people: what is usual is left out."""
        unusual = [x for x in (self.metric, self.dtype) if x not in ("cosine", "float32")]
        sizes = f"{self.Q:,} x {self.M:,} x {self.C:,}"
        return ", ".join([sizes, f"{self.k:,}", *unusual])

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


QUICK = (
    Shape(1, 100, 64),
    Shape(16, 1000, 128),
    Shape(64, 16384, 128),
    Shape(16, 131072, 256),
)

SMALL = (
    Shape(1, 100, 64),
    Shape(8, 1000, 128),
    Shape(16, 1000, 128),
    Shape(64, 1000, 512),
    Shape(32, 12612, 2048),
)

# Some have bars; bars.py has more.
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

# What is wanted first: shapes that other projects publish numbers for, or that people ask about.
# Then one axis at a time around 1,024 x 262,144 x 512, and metrics and dtypes of two of them.
GPU_SETS = {
    "wanted": (
        Shape(16384, 100_000, 128),
        Shape(1024, 1_000_000, 768),
        Shape(2048, 10_000_000, 128),
        Shape(1, 10_000_000, 128),
        Shape(10_000, 1_000_000, 128, k=100),
        Shape(65536, 1000, 512, k=5),
        Shape(8192, 65536, 256, k=16),
        Shape(64, 1_000_000, 768, k=128),
    ),
    "small": (
        *SMALL,
        Shape(256, 262144, 128),
        Shape(1, 262144, 512),
        Shape(16, 262144, 512),
        Shape(1, 1_000_000, 768),
        Shape(16, 1_000_000, 768),
    ),
    "k": tuple(
        Shape(Q, 262144, 512, k, dtype=dtype)
        for Q, dtype in ((1024, "float32"), (1024, "bfloat16"), (16, "float16"))
        for k in (1, 10, 100, 1000)
    ),
    "channels": tuple(
        Shape(1024, 262144, C, dtype=dtype)
        for C in (64, 128, 512, 768, 1536)
        for dtype in ("float32", "float16", "bfloat16")
        if (C, dtype) not in ((512, "float32"), (512, "bfloat16"))  # among those of k
    ),
    "metrics": (
        *(
            Shape(Q, M, C, 10, metric, dtype)
            for Q, M, C in ((16384, 100_000, 128), (1024, 1_000_000, 768))
            for metric, dtype in (("dot", "float32"), ("l2", "float32"), ("cosine", "bfloat16"))
        ),
        Shape(1024, 1_000_000, 768, dtype="float16"),
    ),
    # Clustering, patch banks, classification of a training set against itself: seconds a search.
    "large": (
        Shape(100_000, 100_000, 128),
        Shape(100_352, 20_000, 1536, k=1),
        Shape(50_000, 1_280_000, 768, k=200),
    ),
}

GPU = tuple(shape for shapes in GPU_SETS.values() for shape in shapes)

QUICK_GPU = (*QUICK, Shape(256, 262144, 128), Shape(8192, 65536, 256, k=16))
