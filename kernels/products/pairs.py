"""fp32 products of chosen pairs of rows, without the matrix that they would be entries of."""

import functools
import warnings

import numpy as np
import torch
from torch import Tensor

from ..contract.chunks import require_rows

_PAIR_ELEMENTS = 1 << 22
"""Elements of chosen rows gathered at a time where they cannot be read in place."""


def chosen_dots(queries: Tensor, prototypes: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """fp32 products (n,) of queries[rows[i]] and prototypes[columns[i]]; ``rows`` ascend.

    On a CPU, both are read in place, nothing is gathered: a CSR pattern says which pairs. torch
    does not look whether its columns exist, and would read whatever lies behind the prototypes.
    """
    require_rows(columns, len(prototypes))
    if queries.device.type != "cpu":
        return _gathered_dots(queries, prototypes, rows, columns)
    bounds = torch.arange(len(queries) + 1, device="cpu")
    return _sampled(queries, prototypes, torch.searchsorted(rows.contiguous(), bounds), columns)


def listed_dots(queries: Tensor, prototypes: Tensor, columns: Tensor) -> Tensor:
    """Products (Q, n) of each query with the prototypes that its row of ``columns`` (Q, n) lists.

    On a CPU, in whatever of fp32 and fp64 both are; columns that torch found itself.
    """
    count, each = columns.shape
    starts, listed = np.arange(0, count * each + 1, each), columns.numpy().ravel()
    pairs = torch.from_numpy(starts), torch.from_numpy(listed)
    return _sampled(queries, prototypes, *pairs).view(count, each)


def _sampled(queries: Tensor, prototypes: Tensor, starts: Tensor, columns: Tensor) -> Tensor:
    """Products (n,) of query i and the prototypes ``columns`` from ``starts[i]`` to the next."""
    _quiet_csr()
    pairs = torch.sparse_csr_tensor(
        starts,
        columns,
        queries.new_zeros(columns.shape[0]),
        size=(queries.shape[0], prototypes.shape[0]),
        device="cpu",
        check_invariants=False,
    )
    torch.sparse.sampled_addmm(pairs, queries, prototypes.T, beta=0.0, out=pairs)  # or it copies
    return pairs.values()


def _gathered_dots(queries: Tensor, prototypes: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    step = max(1, _PAIR_ELEMENTS // queries.shape[1])
    parts = [
        (queries[r] * prototypes[c]).sum(1)
        for r, c in zip(rows.split(step), columns.split(step), strict=True)
    ]
    return torch.cat(parts) if parts else queries.new_empty(0)


@functools.cache
def _quiet_csr() -> None:
    """Make torch say now, unheard, that its CSR tensors are in beta; it says so once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.sparse_csr_tensor([0, 0], [], [], size=(1, 1), dtype=torch.float32)
