"""Metrics of ranked matches, one value for each query, from the k best alone.

All take ``relevant`` (Q, k), bool, best first, as of ``relevance``, and give (Q,) float64 in 0..1,
in its kind of array and on its device, in O(Q k), without waiting for it unless they say so. A
query with nothing to find gets 0. Wrong arguments raise TypeError or ValueError, naming the
argument, what was expected, and what was given.
"""

import torch
from torch import Tensor

from ...kernels.arrays.returned import in_kind_of
from ...kernels.arrays.taken import AnyArray, as_tensor
from ...kernels.contract.arguments import require_choice, require_int

AP_MODES = ("IR", "integrate")
AP_DIVISORS = ("relevant", "attainable", "found")
TOO_FEW_RANKS = (
    "R-precision needs as many ranked matches as a query has relevant prototypes, R, which {} of "
    "the queries do not have; search more, or truncate R to what there is"
)


def hit_rate_at_k(relevant: AnyArray, k: int) -> AnyArray:
    """1 if any of the best k is relevant.

    Also called Recall@k in image retrieval, by mmpretrain among others, and CMC at rank k.
    """
    return in_kind_of(relevant, _first(relevant, k).any(1).double())


def recall_at_k(relevant: AnyArray, total: AnyArray, k: int) -> AnyArray:
    """The share of the ``total`` (Q,) relevant prototypes that is among the best k."""
    ranked = _ranked(relevant)
    hits = _first(ranked, k).sum(1).double()
    return in_kind_of(relevant, hits / _of_each("total", total, ranked).clamp(min=1))


def precision_at_k(relevant: AnyArray, k: int, retrieved: AnyArray | None = None) -> AnyArray:
    """The share of the best k that is relevant.

    Where fewer than k were retrieved, what is missing counts as irrelevant; with ``retrieved``
    (Q,), as of ``relevance``, the share is of what is there.
    """
    ranked = _ranked(relevant)
    hits = _first(ranked, k).sum(1).double()
    if retrieved is None:
        return in_kind_of(relevant, hits / k)
    return in_kind_of(relevant, hits / _of_each("retrieved", retrieved, ranked).clamp(1, k))


def average_precision_at_k(
    relevant: AnyArray, total: AnyArray, k: int, *, mode: str = "IR", divisor: str = "relevant"
) -> AnyArray:
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
    ranked = _first(relevant, k)
    total = _of_each("total", total, ranked)
    ranks = torch.arange(1, k + 1, dtype=torch.float64, device=ranked.device)
    hits = ranked.cumsum(1)
    precision = hits / ranks
    if mode == "integrate":
        before = (hits - 1) / (ranks - 1)
        before[:, 0] = 1
        precision = (precision + before) / 2
    divisors = {"relevant": total, "attainable": total.clamp(max=k), "found": hits[:, -1]}
    sums = torch.where(ranked, precision, 0).sum(1)
    return in_kind_of(relevant, sums / divisors[divisor].clamp(min=1))


def reciprocal_rank(relevant: AnyArray, k: int | None = None) -> AnyArray:
    """1 / rank of the first relevant match among the best k, or all; 0 if there is none."""
    ranked = _ranked(relevant)
    ranked = _first(ranked, ranked.shape[1] if k is None else k)
    ranks = torch.arange(1, ranked.shape[1] + 1, dtype=torch.float64, device=ranked.device)
    return in_kind_of(relevant, (ranked / ranks).amax(1))


def r_precision(relevant: AnyArray, total: AnyArray, *, truncate: bool = False) -> AnyArray:
    """The share of the best R that is relevant, R being the query's ``total`` (Q,).

    Needs R ranks. Where there are only k < R, ``truncate`` takes k for R.

    Raises:
        ValueError: some query has R > k, and ``truncate`` is False. On CUDA, looking for such waits
            for the device.
    """
    ranked = _ranked(relevant)
    total = _of_each("total", total, ranked)
    if not truncate and (short := int((total > ranked.shape[1]).sum())):
        raise ValueError(TOO_FEW_RANKS.format(short))
    among = total.clamp(max=ranked.shape[1])
    ranks = torch.arange(1, ranked.shape[1] + 1, device=ranked.device)
    hits = (ranked & (ranks <= among[:, None])).sum(1).double()
    return in_kind_of(relevant, hits / among.clamp(min=1))


def _first(relevant: AnyArray, k: int) -> Tensor:
    """``relevant[:, :k]``, refused unless it is all there."""
    ranked = _ranked(relevant)
    k = require_int("k", k, least=1)
    if k > ranked.shape[1]:
        raise ValueError(
            f"k must be at most the number of ranked matches, {ranked.shape[1]} (where a gallery "
            f"has no more, pad indices with -1); got {k}"
        )
    return ranked[:, :k]


def _ranked(relevant: AnyArray) -> Tensor:
    ranked = as_tensor("relevant", relevant)
    if ranked.dtype != torch.bool or ranked.ndim != 2:
        got = f"{ranked.dtype} {tuple(ranked.shape)}"
        raise TypeError(f"relevant must be a bool tensor (queries, k); got {got}")
    return ranked


def _of_each(name: str, value: AnyArray, relevant: Tensor) -> Tensor:
    """``value`` (Q,) as a tensor; one of another kind is brought to where ``relevant`` is."""
    values = as_tensor(name, value)
    if values.shape != relevant.shape[:1]:
        raise ValueError(
            f"{name} must have shape ({len(relevant)},), one for each query; "
            f"got {tuple(values.shape)}"
        )
    return values if values is value else values.to(relevant.device)
