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
    which it is. Rounding is monotone: what is left out cannot enter if its bound rounds to less
    than the k-th score.
    """
    low, high = (exact - error).astype(np.float32), (exact + error).astype(np.float32)
    low += np.float32(0)  # -0 and 0 are one score
    is_sure = low == high
    floor = -np.inf if left_out is None else left_out.astype(np.float32)
    if is_sure.all():  # so that rounding has kept the order
        ahead = low[:, : k + 1]
        above = low[:, k - 1 : k] > floor
        if above.all() and (ahead[:, :-1] > ahead[:, 1:]).all():
            return (
                torch.from_numpy(low[:, :k].copy()),
                torch.from_numpy(indices[:, :k].copy()),
                None,
            )
    else:
        rows, columns = (~is_sure).nonzero()
        low[rows, columns] = settle(rows, columns)
    values = torch.from_numpy(low)
    keys = order.pack(values, torch.from_numpy(indices))
    keys = keys.masked_fill_(values == -torch.inf, order.EMPTY).topk(k).values
    scores, chosen = order.unpack(keys)
    if left_out is None:
        return scores, chosen, None
    proven = (scores.numpy()[:, -1:] > floor) | (left_out == -np.inf)
    return scores, chosen, None if proven.all() else ~proven[:, 0]
