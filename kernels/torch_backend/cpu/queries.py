"""Queries as products take them: in fp64, with their norms."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...contract.finite import SHORT
from ...contract.metrics import COSINE_EPS
from ...proofs.fp32 import LARGEST_NORM


class Queries(NamedTuple):
    """A block of queries, all finite and in range."""

    given: Tensor
    """(Q, C)"""
    wide: Tensor
    """(Q, C) fp64, for cosine of unit length"""
    norms: np.ndarray
    """(Q, 1) fp64, as given"""

    def part(self, rows: slice) -> "Queries":
        return Queries(self.given[rows], self.wide[rows], self.norms[rows])


def measured(queries: Tensor, metric: str) -> Queries | None:
    """None where a norm is not finite, or out of the range of fp32 products."""
    wide = queries.double().resolve_neg().numpy()
    norms = np.sqrt(np.einsum("ij,ij->i", wide, wide))[:, None]
    if not norms.max() <= LARGEST_NORM:
        return None
    if queries.dtype == torch.float64 and norms.min() < SHORT:
        return None
    if metric == "cosine":
        wide = wide / np.maximum(norms, COSINE_EPS)
    return Queries(queries, torch.from_numpy(wide), norms)
