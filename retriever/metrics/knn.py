"""k-nearest-neighbour classification: the best matches vote for their labels."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ...kernels.arrays.returned import in_kind_of
from ...kernels.arrays.taken import AnyArray, as_tensor
from ...kernels.contract.arguments import require_int
from .labels import (
    Labels,
    labels_at,
    ranks_of_others,
    require_indices,
    require_labels,
    require_selves,
    require_within,
)

Weights = str | Callable[[Tensor], Tensor]


def knn_predict(
    scores: AnyArray,
    indices: AnyArray,
    prototype_labels: Labels,
    num_classes: int,
    *,
    temperature: float = 0.07,
    weights: Weights = "softmax",
    exclude_self: Labels | None = None,
) -> AnyArray:
    """Class scores: the weights of a query's matches, summed by the label of the match.

    Args:
        scores: (Q, k) floating, larger is more similar; with ``indices`` they are what a search
            returns, ``*bank.topk(queries, k)``.
        indices: (Q, k) integers; -1 = no match, no vote.
        prototype_labels: (M,) integers in 0..num_classes - 1, of the whole gallery.
        num_classes: C.
        temperature: of softmax, above 0.
        weights: ``"softmax"``: exp(score / temperature), divided by the sum of the query's: the
            vote of DINO's evaluation, which leaves the division out, with the same classes ahead;
            ``"uniform"``: 1 each, so that class scores are counts; or a callable from scores (Q, k)
            float64 to weights, of which those of absent matches are ignored.
        exclude_self: (Q,) the prototype that each query itself is, or -1: it does not vote. The
            last match then does not either, so search one match more than is to vote.

    Returns:
        (Q, C) float64, where far votes do not vanish; 0 for a class nobody voted for. On CUDA votes
        are added in any order, so that equal sums may differ in their last bit.

    Raises:
        TypeError, ValueError: naming the argument, what was expected, and what was given. Values of
            labels and indices are looked at only on the CPU.

    Takes O(M + Q (k + C)).
    """
    given, scores, indices = scores, as_tensor("scores", scores), require_indices(indices)
    _require_votes(scores, indices, temperature, weights)
    num_classes = require_int("num_classes", num_classes, least=1)
    labels = require_labels("prototype_labels", prototype_labels, indices.device)
    require_within("prototype_labels", labels, num_classes, least=0)
    require_within("indices", indices, len(labels))
    selves = require_selves(exclude_self, indices, len(labels))
    if selves is not None:
        others = ranks_of_others(indices, selves)
        scores, indices = scores.gather(1, others), indices.gather(1, others)
    absent = indices < 0
    votes = _votes(scores.double().masked_fill(absent, -torch.inf), temperature, weights)
    votes = votes.masked_fill(absent, 0)
    sums = votes.new_zeros(len(indices), num_classes)
    return in_kind_of(given, sums.scatter_add_(1, labels_at(labels, indices), votes))


def knn_accuracy(
    class_scores: AnyArray, query_labels: Labels, topk: Sequence[int] = (1, 5)
) -> dict[str, AnyArray]:
    """The share of queries whose label is among the k best classes: ``{"top1": ..., "top5": ...}``.

    Args:
        class_scores: (Q, C), as of ``knn_predict``. Classes tie in favour of the lowest index.
        query_labels: (Q,) integers in 0..C - 1.
        topk: how many of the best classes count.

    Returns:
        0-dimensional float64, in the kind of ``class_scores``; NaN if there are no queries.

    Raises:
        TypeError, ValueError: naming the argument, what was expected, and what was given.
    """
    ranks = _ranks(class_scores, query_labels)
    cutoffs = [require_int("topk", k, least=1) for k in topk]
    return in_kind_of(class_scores, {f"top{k}": (ranks < k).double().mean() for k in cutoffs})


def class_ranks(class_scores: AnyArray, query_labels: Labels) -> AnyArray:
    """(Q,) int64: how many classes come before each query's own: a higher score, or a tie and a
    lower index."""
    return in_kind_of(class_scores, _ranks(class_scores, query_labels))


def _ranks(class_scores: AnyArray, query_labels: Labels) -> Tensor:
    class_scores = as_tensor("class_scores", class_scores)
    if class_scores.ndim != 2:
        got = tuple(class_scores.shape)
        raise ValueError(f"class_scores must be a tensor (queries, classes); got {got}")
    classes = class_scores.shape[1]
    own = require_labels("query_labels", query_labels, class_scores.device, len(class_scores))
    require_within("query_labels", own, classes, least=0)
    score = class_scores.gather(1, own[:, None])
    lower = torch.arange(classes, device=own.device) < own[:, None]
    return ((class_scores > score) | (class_scores.eq(score) & lower)).sum(1)


def _votes(scores: Tensor, temperature: float, weights: Weights) -> Tensor:
    if callable(weights):
        return weights(scores)
    return (scores / temperature).softmax(1) if weights == "softmax" else torch.ones_like(scores)


def _require_votes(scores: Tensor, indices: Tensor, temperature: float, weights: object) -> None:
    if not scores.is_floating_point():
        raise TypeError(f"scores must be a floating tensor; got {scores.dtype}")
    if scores.shape != indices.shape:
        raise ValueError(
            f"scores must have the shape of indices, {tuple(indices.shape)}; "
            f"got {tuple(scores.shape)}"
        )
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0; got {temperature}")
    if not callable(weights) and weights not in ("softmax", "uniform"):
        raise ValueError(f"weights must be 'softmax', 'uniform' or a callable; got {weights!r}")
