"""Scores in fp64: of all pairs, or of rectangular shortlists."""

import numpy as np
import torch
from torch import Tensor

from ...contract.finite import measure_norms
from ...contract.finite import norms as norms_of
from ...contract.metrics import COSINE_EPS
from ...products.pairs import chosen_dots, listed_dots
from ...proofs.fp32 import fp64_slack
from ...storage.operands import Operands
from .queries import Queries

_GATHERED_ELEMENTS = 1 << 18
"""Coordinates gathered at a time: 2 MiB in fp64, which stay in cache until they are multiplied."""

_MANY_PAIRS = 2
"""Pairs of each prototype from which on all rows are widened, and none gathered (512 x 25,000,
214 each, 512 channels, two threads of a Sapphire Rapids: 19 ms instead of 47)."""


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
    queries: Queries, operands: Operands, indices: Tensor, tile_rows: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """(Q, n) fp64 scores of the prototypes ``indices`` (Q, n), and what ``error_of`` asks for.

    ``tile_rows``: that may be made fp64 at a time.
    """
    norms, is_unit = None, False
    if operands.wide is not None:
        products = listed_dots(queries.wide, operands.wide, indices).numpy()
        is_unit = operands.metric == "cosine" and operands.lengths is None
    elif indices.numel() >= _MANY_PAIRS * len(operands.rows):
        products, norms = _tile_by_tile(queries, operands, indices, tile_rows)
    else:
        products, norms = _gathered(queries, operands, indices)
    if operands.norms is not None and not is_unit:
        norms = norms_at(operands, indices.numpy())
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
    """Products (Q, n) fp64, and norms, but where they are known: rows are gathered and widened a
    cacheful at a time."""
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
    return products[:, 0].numpy(), norms.view(count, each).numpy()


def _tile_by_tile(
    queries: Queries, operands: Operands, indices: Tensor, step: int
) -> tuple[np.ndarray, np.ndarray]:
    """The same, of so many pairs that most rows have some: a tile of rows is widened at a time."""
    count, each = indices.shape
    rows, channels = operands.rows, operands.rows.channels
    listed = indices.flatten()
    tile_of = torch.div(listed, step, rounding_mode="floor").int()
    by_tile = torch.argsort(tile_of, stable=True)  # so that queries ascend within a tile
    ends = torch.bincount(tile_of, minlength=-(-len(rows) // step)).cumsum(0).tolist()
    wide = torch.empty(min(step, len(rows)), channels, dtype=torch.float64, device="cpu")
    products, norms = torch.empty(2, len(listed), dtype=torch.float64, device="cpu")
    first = 0
    for start, end in zip(range(0, len(rows), step), ends, strict=True):
        stop, here = min(start + step, len(rows)), by_tile[first:end]
        tile = wide[: stop - start].copy_(rows.span(start, stop, wide.device))
        columns = listed[here] - start
        products[here] = chosen_dots(queries.wide, tile, here // each, columns)
        if operands.norms is None:
            norms[here] = norms_of(tile)[columns]
        first = end
    return products.view(count, each).numpy(), norms.view(count, each).numpy()


def norms_at(operands: Operands, indices: np.ndarray) -> np.ndarray:
    """Norms (Q, n) fp64 of the prototypes ``indices`` (Q, n), which are known."""
    assert operands.norms is not None
    return operands.norms.numpy()[indices]
