"""kNN evaluation of features, exactly: lightly's ``knn_predict`` and DINO's ``knn_classifier``.

All of it takes features as they are and compares them by their dot product, as the originals do:
normalise them for cosines. A ``PrototypeBank`` in place of the features to search is prepared once
for many calls, and compares by its own metric.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..kernels import Matches, PrototypeBank, topk
from ..kernels.contract.arguments import require_int
from ..kernels.contract.naming import named
from ..retriever.metrics import KnnAccuracy, knn
from ..retriever.metrics.labels import Labels, as_labels
from ._arrays import as_vectors

VOTES = 2**22  # class scores held at a time by an evaluation: 32 MiB


@torch.no_grad()
def knn_predict(
    feature: Tensor,
    feature_bank: Tensor | PrototypeBank,
    feature_labels: Tensor,
    num_classes: int,
    knn_k: int = 200,
    knn_t: float = 0.1,
) -> Tensor:
    """Classes by the votes of the nearest features, as lightly.utils.benchmarking.knn_predict.

    Args:
        feature: (B, D), floating.
        feature_bank: (D, N), one feature a column; or a ``PrototypeBank`` of the N features. A
            tensor whose columns do not lie whole in memory is copied, at each call.
        feature_labels: (N,) integers in 0..num_classes - 1.
        num_classes: C.
        knn_k: features that vote, at most N.
        knn_t: a vote counts exp(score / knn_t).

    Returns:
        (B, C) int64: the classes of each row, most votes first, ties by lowest class. Those that
        nobody voted for come last.

    Raises:
        TypeError, ValueError: naming the argument, what was expected, and what was given.
    """
    if not isinstance(feature_bank, PrototypeBank):
        feature_bank = as_vectors("feature_bank", feature_bank).T.contiguous()
    feature_labels = _labels("feature_labels", feature_labels, len(feature_bank))
    queries = as_vectors("feature", feature)
    with named(
        queries="feature",
        prototypes="feature_bank",
        k="knn_k",
        prototype_labels="feature_labels",
        temperature="knn_t",
    ):
        scores, indices = _search(queries, feature_bank, knn_k)
        votes = knn.knn_predict(scores, indices, feature_labels, num_classes, temperature=knn_t)
    return votes.argsort(dim=-1, descending=True, stable=True)


def knn_classifier(
    train_features: Tensor | PrototypeBank,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    k: int,
    T: float,
    num_classes: int = 1000,
) -> tuple[float, float]:
    """Top-1 and top-5 accuracy in percent, as ``knn_classifier`` of DINO's eval_knn.py.

    Arguments and errors as of ``knn_accuracies``.
    """
    arguments = train_features, train_labels, test_features, test_labels
    with named(ks="k"):
        k = require_int("k", k, least=1)
        return knn_accuracies(*arguments, ks=(k,), T=T, num_classes=num_classes)[k]


@torch.no_grad()
def knn_accuracies(
    train_features: Tensor | PrototypeBank,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    ks: Sequence[int] = (10, 20, 100, 200),
    T: float = 0.07,
    num_classes: int = 1000,
) -> dict[int, tuple[float, float]]:
    """Top-1 and top-5 accuracy in percent for each k, from one search for the largest.

    Args:
        train_features: (N, D), floating; or a ``PrototypeBank`` of them.
        train_labels: (N,) integers in 0..num_classes - 1.
        test_features: (Q, D), floating.
        test_labels: (Q,) integers in 0..num_classes - 1.
        ks: how many features vote, 1 to N.
        T: a vote counts exp(score / T).
        num_classes: C.

    Returns:
        ``{k: (top1, top5)}``; for k < 5 the latter is of the best k classes, as DINO has it. Ties
        go to the lowest class. NaN if there are no test features.

    Raises:
        TypeError, ValueError: naming the argument, what was expected, and what was given.
    """
    if not isinstance(ks, Sequence) or isinstance(ks, str) or len(ks) == 0:
        raise TypeError(f"ks must be a sequence of at least one int; got {ks!r}")
    ks = [require_int("ks", k, least=1) for k in ks]
    if not isinstance(train_features, PrototypeBank):
        train_features = as_vectors("train_features", train_features)
    queries = as_vectors("test_features", test_features)
    train_labels = _labels("train_labels", train_labels, len(train_features))
    test_labels = _labels("test_labels", test_labels, len(queries))
    with named(
        queries="test_features",
        prototypes="train_features",
        k="ks",
        prototype_labels="train_labels",
        query_labels="test_labels",
        temperature="T",
    ):
        accuracies = {k: KnnAccuracy(num_classes, (1, min(5, k)), temperature=T) for k in ks}
        scores, indices = _search(queries, train_features, max(ks))
        rows = max(1, VOTES // num_classes)
        batches = zip(scores.split(rows), indices.split(rows), test_labels.split(rows), strict=True)
        for found, neighbours, labels in batches:
            for k, accuracy in accuracies.items():
                accuracy.update(found[:, :k], neighbours[:, :k], labels, train_labels)
    shares = {k: accuracy.compute(sync=False) for k, accuracy in accuracies.items()}
    return {k: (100 * share["top1"], 100 * share[f"top{min(5, k)}"]) for k, share in shares.items()}


def _search(queries: Tensor, features: Tensor | PrototypeBank, k: int) -> Matches:
    if isinstance(features, PrototypeBank):
        return features.topk(queries, k)
    return topk(queries, features, k, metric="dot")


def _labels(name: str, value: Labels, count: int) -> Tensor:
    labels = as_labels(name, value)
    if labels.shape != (count,):
        raise ValueError(
            f"{name} must have shape ({count},), one for each feature; got {tuple(labels.shape)}"
        )
    return labels
