"""Queries as they are given, and in fp64 with their norms."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...contract.finite import SHORT
from ...contract.metrics import COSINE_EPS
from ...proofs.fp32 import LARGEST_NORM, TINY

_FEW_ELEMENTS = 1 << 16


class Queries(NamedTuple):
    """A block of queries, all finite and in range."""

    given: Tensor
    """(Q, C)"""
    wide: Tensor
    """(Q, C) fp64"""
    norms: np.ndarray
    """(Q, 1) fp64"""
    lengths: np.ndarray
    """(Q, 1) fp64: the norms, clamped as cosine does."""

    def of(self, rows: Tensor) -> "Queries":
        """Those that ``rows`` (n,) int64 list."""
        at = rows.numpy()
        return Queries(self.given[rows], self.wide[rows], self.norms[at], self.lengths[at])

    def in_halves(self) -> tuple[Tensor, np.ndarray]:
        """(Q, C) bf16, and what rounding took (Q, 1), relative to the norms."""
        rounded = self.given.bfloat16()
        taken = torch.linalg.vector_norm(rounded - self.wide, dim=1).numpy()[:, None]
        return rounded, taken / np.maximum(self.norms, TINY)


def measured(queries: Tensor) -> Queries | None:
    """None where a norm is not finite, or out of the range of fp32 products."""
    wide = _widened(queries)
    array = wide.numpy()
    norms = np.sqrt(np.matmul(array[:, None], array[:, :, None])[:, 0])
    if not norms.max() <= LARGEST_NORM:
        return None
    if queries.dtype == torch.float64 and norms.min() < SHORT:
        return None
    return Queries(queries, wide, norms, np.maximum(norms, COSINE_EPS))


def _widened(queries: Tensor) -> Tensor:
    """In fp64; few of fp32 by NumPy, which wakes no threads: that takes longer."""
    if queries.dtype == torch.float32 and queries.numel() <= _FEW_ELEMENTS:
        return torch.from_numpy(queries.resolve_neg().numpy().astype(np.float64))
    return queries.double().resolve_neg()
