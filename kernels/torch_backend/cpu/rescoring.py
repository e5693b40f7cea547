"""Scores in fp64: of all pairs, or of rectangular shortlists."""

import numpy as np
import torch
from torch import Tensor

from ...contract.finite import measure_norms
from ...contract.metrics import COSINE_EPS
from ...products.pairs import listed_dots
from ...proofs.fp32 import fp64_slack
from ...storage.operands import Operands
from .queries import Queries

_GATHERED_ELEMENTS = 1 << 18
"""Coordinates gathered at a time: 2 MiB in fp64, which stay in cache until they are multiplied."""


def of_all(queries: Queries, operands: Operands) -> np.ndarray:
    """(Q, M) fp64"""
    assert operands.wide is not None
    products = torch.mm(queries.wide, operands.wide.T).numpy()
    if operands.lengths is not None:
        products /= operands.lengths.numpy()
    norms = None
    if operands.metric == "l2":
        assert operands.norms is not None
        norms = operands.norms.numpy()
    return _scores(products, queries, norms, operands.metric)


def of_listed(
    queries: Queries, operands: Operands, indices: Tensor
) -> tuple[np.ndarray, np.ndarray | None]:
    """(Q, n) fp64 scores of the prototypes ``indices`` (Q, n), and what ``error_of`` asks for."""
    if operands.wide is None:
        products, norms = _gathered(queries, operands, indices)
    else:
        products = listed_dots(queries.wide, operands.wide, indices).numpy()
        is_unit = operands.metric == "cosine" and operands.lengths is None
        norms = None if is_unit else norms_at(operands, indices.numpy())
    if operands.metric == "cosine":
        if norms is not None:
            products /= np.maximum(norms, COSINE_EPS)
        norms = None
    return _scores(products, queries, norms, operands.metric), norms


def error_of(queries: Queries, norms: np.ndarray | float | None, metric: str) -> np.ndarray | float:
    """What scores may differ by from any other evaluation in fp64; cosine's norms do not matter."""
    slack = fp64_slack(queries.wide.shape[1])
    if metric == "cosine":
        return slack
    assert norms is not None
    return slack * (queries.norms * norms if metric == "dot" else (queries.norms + norms) ** 2)


def _scores(
    products: np.ndarray, queries: Queries, norms: np.ndarray | None, metric: str
) -> np.ndarray:
    if metric == "cosine":
        products /= queries.lengths
    elif metric == "l2":
        assert norms is not None
        products *= 2
        products -= queries.norms**2
        products -= norms**2
    return products


def _gathered(
    queries: Queries, operands: Operands, indices: Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """Products and norms (Q, n) fp64: rows are gathered and widened a cacheful at a time."""
    count, each = indices.shape
    channels, dtype = operands.rows.channels, operands.rows.dtype
    step = max(1, min(_GATHERED_ELEMENTS // (each * channels), count))
    rows = torch.empty(step * each, channels, dtype=torch.float64, device="cpu")
    products = torch.empty(count, 1, each, dtype=torch.float64, device="cpu")
    norms = torch.empty(count * each, dtype=torch.float64, device="cpu")
    for start in range(0, count, step):
        part = slice(start, min(start + step, count))
        at = slice(part.start * each, part.stop * each)
        taken = operands.rows.take(indices[part].flatten().contiguous(), rows[: at.stop - at.start])
        by_query = taken.view(-1, each, channels)
        torch.bmm(queries.wide[part, None], by_query.transpose(1, 2), out=products[part])
        if operands.norms is None:
            measure_norms(taken, norms[at], dtype)
    products = products[:, 0].numpy()
    if operands.norms is not None:
        return products, norms_at(operands, indices.numpy())
    return products, norms.view(count, each).numpy()


def norms_at(operands: Operands, indices: np.ndarray) -> np.ndarray:
    """Norms (Q, n) fp64 of the prototypes ``indices`` (Q, n), which are known."""
    assert operands.norms is not None
    return operands.norms.numpy()[indices]
