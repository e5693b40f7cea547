"""Which shortlists are proven: scores rounded once, in order, and nothing left out that could enter."""

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
    any other fp64 evaluation; ``left_out`` (Q, 1) fp64, which none of the other prototypes' exceeds;
    None where there are no others. The score that the contract means rounds to one fp32 number if
    both ends of its interval do, and ``settle`` says which it is else. Rounding is monotone: what
    is left out cannot enter if its bound rounds to less than the k-th score.
    """
    low, high = (exact - error).astype(np.float32), (exact + error).astype(np.float32)
    low += np.float32(0)  # -0 and 0 are one score
    sure = low == high
    is_sure = sure.all()
    if not is_sure:
        rows, columns = (~sure).nonzero()
        low[rows, columns] = settle(rows, columns)
    ahead = low[:, : k + 1]
    if is_sure and (ahead[:, :-1] > ahead[:, 1:]).all() and ahead[:, k - 1].min() > -np.inf:
        scores, chosen = low[:, :k], indices[:, :k]
        found = torch.from_numpy(scores.copy()), torch.from_numpy(chosen.copy())
    else:
        found = _in_order(low, indices, k)
    if left_out is None:
        return *found, None
    kth = found[0].numpy()[:, -1:]
    proven = (left_out.astype(np.float32) < kth) | (left_out == -np.inf)
    return *found, None if proven.all() else ~proven[:, 0]


def _in_order(scores: np.ndarray, indices: np.ndarray, k: int) -> tuple[Tensor, Tensor]:
    values = torch.from_numpy(scores)
    keys = order.pack(values, torch.from_numpy(indices)).masked_fill_(values == -torch.inf, order.EMPTY)
    return order.unpack(keys.topk(k).values)
