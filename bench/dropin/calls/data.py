"""What these calls are compared on: unit vectors, by inner product, and labels."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from flashmatch import PrototypeBank

SAMPLE = 64


def unit_vectors(rows: int, channels: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, channels, generator=generator))


def random_labels(rows: int, count: int, seed: int) -> Tensor:
    return torch.randint(count, (rows,), generator=torch.Generator().manual_seed(seed))


def size_of(*numbers: int) -> str:
    return " x ".join(map(str, numbers))


def bank_of(prototypes: Tensor) -> PrototypeBank:
    return PrototypeBank(prototypes, metric="dot", progress=False)


def threshold_of(queries: Tensor, prototypes: Tensor, share: float) -> float:
    """The inner product that about ``share`` of the pairs reach, by the first queries."""
    scores = queries[:SAMPLE] @ prototypes.T
    return float(np.quantile(scores.numpy(), 1 - share))
