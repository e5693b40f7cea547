"""Metrics of ranked matches, one value for each query, from the k best alone.

All take ``relevant`` (Q, k), bool, best first, as of ``relevance``, and give (Q,) float64 in 0..1,
on its device, in O(Q k), without waiting for it unless they say so. A query with nothing to find
gets 0. Wrong arguments raise TypeError or ValueError, naming the argument, what was expected, and
what was given.
"""

import torch
from torch import Tensor

from ...kernels.contract.arguments import require_choice, require_int

AP_MODES = ("IR", "integrate")
AP_DIVISORS = ("relevant", "attainable", "found")
TOO_FEW_RANKS = (
    "R-precision needs as many ranked matches as a query has relevant prototypes, R, which {} of "
    "the queries do not have; search more, or truncate R to what there is"
)


def hit_rate_at_k(relevant: Tensor, k: int) -> Tensor:
    """1 if any of the best k is relevant.

    Also called Recall@k in image retrieval, by mmpretrain among others, and CMC at rank k.
    """
    return _first(relevant, k).any(1).double()


def recall_at_k(relevant: Tensor, total: Tensor, k: int) -> Tensor:
    """The share of the ``total`` (Q,) relevant prototypes that is among the best k."""
    _require_each("total", total, relevant)
    return _first(relevant, k).sum(1).double() / total.clamp(min=1)


def precision_at_k(relevant: Tensor, k: int, retrieved: Tensor | None = None) -> Tensor:
    """The share of the best k that is relevant.

    Where fewer than k were retrieved, what is missing counts as irrelevant; with ``retrieved``
    (Q,), as of ``relevance``, the share is of what is there.
    """
    hits = _first(relevant, k).sum(1).double()
    if retrieved is None:
        return hits / k
    _require_each("retrieved", retrieved, relevant)
    return hits / retrieved.clamp(1, k)


def average_precision_at_k(
    relevant: Tensor, total: Tensor, k: int, *, mode: str = "IR", divisor: str = "relevant"
) -> Tensor:
    """The precision at each relevant match among the best k, summed and divided.

    Args:
        relevant: (Q, >= k) bool.
        total: (Q,) relevant prototypes there are.
        k: ranks that count.
        mode: at the relevant match of rank r, the h-th one, ``"IR"`` takes the precision h / r;
            ``"integrate"`` the mean of this and the one before, (h - 1) / (r - 1), or 1 for r = 1:
            the area under the precision-recall curve by the trapezoidal rule, as Oxford Buildings'
            compute_ap.cpp has it.
        divisor: ``"relevant"`` divides by ``total``, so that a perfect ranking has 1 only if total
            <= k; ``"attainable"`` by min(k, total), so that a perfect one always has 1;
            ``"found"`` by the relevant matches among the best k.
    """
    require_choice("mode", mode, AP_MODES)
    require_choice("divisor", divisor, AP_DIVISORS)
    _require_each("total", total, relevant)
    ranked = _first(relevant, k)
    ranks = torch.arange(1, k + 1, dtype=torch.float64, device=ranked.device)
    hits = ranked.cumsum(1)
    precision = hits / ranks
    if mode == "integrate":
        before = (hits - 1) / (ranks - 1)
        before[:, 0] = 1
        precision = (precision + before) / 2
    divisors = {"relevant": total, "attainable": total.clamp(max=k), "found": hits[:, -1]}
    return torch.where(ranked, precision, 0).sum(1) / divisors[divisor].clamp(min=1)


def reciprocal_rank(relevant: Tensor, k: int | None = None) -> Tensor:
    """1 / rank of the first relevant match among the best k, or all; 0 if there is none."""
    _require_relevant(relevant)
    ranked = _first(relevant, relevant.shape[1] if k is None else k)
    ranks = torch.arange(1, ranked.shape[1] + 1, dtype=torch.float64, device=ranked.device)
    return (ranked / ranks).amax(1)


def r_precision(relevant: Tensor, total: Tensor, *, truncate: bool = False) -> Tensor:
    """The share of the best R that is relevant, R being the query's ``total`` (Q,).

    Needs R ranks. Where there are only k < R, ``truncate`` takes k for R.

    Raises:
        ValueError: some query has R > k, and ``truncate`` is False. On CUDA, looking for such waits
            for the device.
    """
    _require_relevant(relevant)
    _require_each("total", total, relevant)
    if not truncate and (short := int((total > relevant.shape[1]).sum())):
        raise ValueError(TOO_FEW_RANKS.format(short))
    among = total.clamp(max=relevant.shape[1])
    ranks = torch.arange(1, relevant.shape[1] + 1, device=relevant.device)
    return (relevant & (ranks <= among[:, None])).sum(1).double() / among.clamp(min=1)


def _first(relevant: Tensor, k: int) -> Tensor:
    """``relevant[:, :k]``, refused unless it is all there."""
    _require_relevant(relevant)
    k = require_int("k", k, least=1)
    if k > relevant.shape[1]:
        raise ValueError(
            f"k must be at most the number of ranked matches, {relevant.shape[1]} (where a gallery "
            f"has no more, pad indices with -1); got {k}"
        )
    return relevant[:, :k]


def _require_relevant(relevant: object) -> None:
    if not isinstance(relevant, Tensor) or relevant.dtype != torch.bool or relevant.ndim != 2:
        is_tensor = isinstance(relevant, Tensor)
        got = f"{relevant.dtype} {tuple(relevant.shape)}" if is_tensor else type(relevant).__name__
        raise TypeError(f"relevant must be a bool tensor (queries, k); got {got}")


def _require_each(name: str, value: Tensor, relevant: Tensor) -> None:
    if value.shape != relevant.shape[:1]:
        raise ValueError(
            f"{name} must have shape ({len(relevant)},), one for each query; "
            f"got {tuple(value.shape)}"
        )
