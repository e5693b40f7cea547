"""What metrics refuse."""

import pytest
import torch

from flashmatch.retriever import metrics as m
from flashmatch.retriever.metrics import Relevance, RetrievalMetrics, relevance

GOOD = torch.tensor([[0, 1]])
BOOL = torch.tensor([[True, False]])
ONE = torch.tensor([1])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: relevance(GOOD.float(), [0], [0, 1]),
            TypeError,
            "indices must be a tensor of int",
        ),
        (lambda: relevance(GOOD[0], [0], [0, 1]), ValueError, r"indices must have shape .*\(2,\)"),
        (lambda: relevance(GOOD + 1, [0], [0, 1]), ValueError, "indices .* below 2; got 1 to 2"),
        (lambda: relevance(GOOD - 2, [0], [0, 1]), ValueError, "indices must be at least -1"),
        (lambda: relevance(GOOD, [0, 1], [0, 1]), ValueError, r"query_labels must have shape \(1,"),
        (lambda: relevance(GOOD, [0.5], [0, 1]), TypeError, "query_labels must be integers"),
        (lambda: relevance(GOOD, [0], [[0, 1]]), ValueError, "prototype_labels must have shape"),
        (
            lambda: relevance(GOOD[:, :1], [0], [0, 1], exclude_self=[0]),
            ValueError,
            "exclude_self takes one match away",
        ),
        (
            lambda: relevance(GOOD, [0], [0, 1], exclude_self=[2]),
            ValueError,
            "exclude_self must be at least -1 and below 2",
        ),
        (lambda: m.relevance_to_targets(GOOD, [[0], [1]]), ValueError, "targets must be of 1"),
        (lambda: m.relevance_to_targets(GOOD, torch.ones(2, 2)), ValueError, "targets must have"),
        (lambda: m.relevance_to_targets(GOOD, [[0.5]]), TypeError, r"targets\[0\] must be integ"),
        (lambda: m.relevance_to_targets(GOOD, [[-1]]), ValueError, "targets must be at least 0"),
        (lambda: m.hit_rate_at_k(GOOD, 1), TypeError, "relevant must be a bool tensor"),
        (lambda: m.hit_rate_at_k(BOOL, 3), ValueError, "k must be at most .* 2 .*; got 3"),
        (lambda: m.hit_rate_at_k(BOOL, 0), ValueError, "k must be at least 1; got 0"),
        (lambda: m.hit_rate_at_k(BOOL, True), TypeError, "k must be an int; got bool"),
        (lambda: m.recall_at_k(BOOL, ONE[None], 1), ValueError, r"total must have shape \(1,\)"),
        (lambda: m.precision_at_k(BOOL, 1, GOOD), ValueError, "retrieved must have shape"),
        (lambda: m.average_precision_at_k(BOOL, ONE, 1, mode="ir"), ValueError, "mode must be one"),
        (lambda: m.average_precision_at_k(BOOL, ONE, 1, divisor=""), ValueError, "divisor must be"),
        (lambda: RetrievalMetrics(ks=()), TypeError, "ks must be a sequence"),
        (lambda: RetrievalMetrics(ks=(0,)), ValueError, "ks must be at least 1; got 0"),
        (lambda: RetrievalMetrics(empty="zero"), ValueError, "empty must be one of 'neg', 'pos'"),
        (lambda: RetrievalMetrics(ap_mode="ir"), ValueError, "ap_mode must be one of"),
        (lambda: m.knn_predict(GOOD, GOOD, [0, 1], 2), TypeError, "scores must be a floating"),
        (lambda: m.knn_predict(ONE.float(), GOOD, [0, 1], 2), ValueError, "scores must have the"),
        (
            lambda: m.knn_predict(1.0 * GOOD, GOOD, [0, 2], 2),
            ValueError,
            "prototype_labels must be",
        ),
        (
            lambda: m.knn_predict(1.0 * GOOD, GOOD, [0, 1], 2, temperature=0),
            ValueError,
            "temperature must be above 0; got 0",
        ),
        (
            lambda: m.knn_predict(1.0 * GOOD, GOOD, [0, 1], 2, weights="distance"),
            ValueError,
            "weights must be 'softmax', 'uniform' or a callable",
        ),
        (lambda: m.knn_accuracy(1.0 * GOOD, [2]), ValueError, "query_labels must be at least 0"),
        (lambda: m.knn_accuracy(1.0 * ONE, [0]), ValueError, "class_scores must be a tensor"),
    ],
)
def test_refusals(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_refusals_that_wait_for_compute() -> None:
    batch = Relevance(BOOL.repeat(3, 1), torch.tensor([0, 2, 3]), torch.tensor([2, 2, 2]))
    metrics = RetrievalMetrics(ks=(1,), empty="error")
    metrics.update(batch)
    with pytest.raises(ValueError, match=r"queries must have a relevant prototype .* got 1 that"):
        metrics.compute()
    metrics = RetrievalMetrics(ks=(1,), r_precision="exact")
    metrics.update(batch)
    with pytest.raises(ValueError, match="which 1 of the queries do not have"):
        metrics.compute()
    metrics.reset()
    metrics.update(Relevance(*(part[:2] for part in batch)))
    assert metrics.compute()["R_precision"] == 0.25
