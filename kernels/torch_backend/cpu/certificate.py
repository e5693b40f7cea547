"""Which shortlists are proven: scores certain, in order, and nothing left out that could enter."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ...contract import order

Settle = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(n,) rows and columns of a shortlist -> their fp32 scores, as the contract has them."""


def certified(
    exact: np.ndarray,
    error: np.ndarray | float,
    indices: np.ndarray,
    left_out: np.ndarray | None,
    k: int,
    settle: Settle,
) -> tuple[Tensor, Tensor, np.ndarray | None]:
    """Scores (Q, k) fp32 and indices (Q, k) int64, and which queries (Q,) are not proven, if any.

    ``exact`` (Q, n) fp64 scores, descending, -inf where nothing may match, each within ``error`` of
    any other fp64 evaluation. ``left_out`` (Q, 1) fp64: what no evaluation of any other prototype's
    exceeds; None where there are no others.

    An evaluation rounds to one fp32 number if both ends of its interval do; else ``settle`` says
    which it is. Rounding is monotone, so that it has kept the order of scores that are sure, but
    for ties: rows with either are sorted again. What is left out cannot enter if its bound rounds
    to less than the k-th score.
    """
    low, high = (exact - error).astype(np.float32), (exact + error).astype(np.float32)
    low += np.float32(0)  # -0 and 0 are one score
    is_sure = low == high
    ahead = low[:, : k + 1]
    is_sorted = (ahead[:, :-1] > ahead[:, 1:]).all(1) & (ahead[:, k - 1] > -np.inf)
    if not is_sure.all():
        is_sorted &= is_sure.all(1)
        rows, columns = (~is_sure).nonzero()
        low[rows, columns] = settle(rows, columns)
    scores, chosen = low[:, :k].copy(), indices[:, :k].copy()
    if not is_sorted.all():
        rows = (~is_sorted).nonzero()[0]
        scores[rows], chosen[rows] = _sorted_again(low[rows], indices[rows], k)
    unproven = None
    if left_out is not None:
        proven = (scores[:, -1:] > left_out.astype(np.float32)) | (left_out == -np.inf)
        unproven = None if proven.all() else ~proven[:, 0]
    return torch.from_numpy(scores), torch.from_numpy(chosen), unproven


def _sorted_again(scores: np.ndarray, indices: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best (Q, k) of (Q, n) in the one order; what may not match, at -inf, is none."""
    values = torch.from_numpy(scores)
    keys = order.pack(values, torch.from_numpy(indices))
    keys = keys.masked_fill_(values == -torch.inf, order.EMPTY).topk(k).values
    best, chosen = order.unpack(keys)
    return best.numpy(), chosen.numpy()
