"""Metrics take arrays of any kind, and answer in that of the rankings."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from flashmatch.retriever import metrics as m

pytestmark = pytest.mark.filterwarnings("error")

RNG = np.random.default_rng(0)
INDICES = RNG.permuted(np.tile(np.arange(20), (6, 1)), axis=1)[:, :7]
SCORES = -np.sort(-RNG.random((6, 7), np.float32), axis=1)
LABELS, OWN = RNG.integers(0, 4, 20), RNG.integers(0, 4, 6)
FOUND = m.relevance(torch.tensor(INDICES), torch.tensor(OWN), torch.tensor(LABELS))
RANKED, TOTAL, RETRIEVED = (x.numpy() for x in FOUND)
VOTES = m.knn_predict(torch.tensor(SCORES), torch.tensor(INDICES), torch.tensor(LABELS), 4).numpy()
TARGETS = LABELS[None] == OWN[:, None]

CALLS: dict[str, tuple[Callable[..., Any], tuple[np.ndarray, ...]]] = {
    "relevance": (m.relevance, (INDICES, OWN, LABELS)),
    "relevance, alone": (
        lambda i, y, p, own: m.relevance(i, y, p, exclude_self=own),
        (INDICES, OWN, LABELS, INDICES[:, 2]),
    ),
    "relevance_to_targets": (m.relevance_to_targets, (INDICES, TARGETS)),
    "hit_rate_at_k": (lambda r: m.hit_rate_at_k(r, 3), (RANKED,)),
    "recall_at_k": (lambda r, t: m.recall_at_k(r, t, 3), (RANKED, TOTAL)),
    "precision_at_k": (lambda r: m.precision_at_k(r, 3), (RANKED,)),
    "precision_at_k of what is there": (
        lambda r, t: m.precision_at_k(r, 3, t),
        (RANKED, RETRIEVED),
    ),
    "average_precision_at_k": (lambda r, t: m.average_precision_at_k(r, t, 5), (RANKED, TOTAL)),
    "reciprocal_rank": (m.reciprocal_rank, (RANKED,)),
    "r_precision": (lambda r, t: m.r_precision(r, t, truncate=True), (RANKED, TOTAL)),
    "knn_predict": (lambda s, i, y: m.knn_predict(s, i, y, 4), (SCORES, INDICES, LABELS)),
    "class_ranks": (m.class_ranks, (VOTES, OWN)),
    "knn_accuracy": (m.knn_accuracy, (VOTES, OWN)),
}


def frozen(array: np.ndarray) -> np.ndarray:
    copy = array.copy()
    copy.flags.writeable = False
    return copy


KINDS: dict[str, Callable[[np.ndarray], Any]] = {
    "numpy": np.asarray,
    "read-only": frozen,
    "backwards": lambda x: x[..., ::-1].copy()[..., ::-1],
    "big-endian": lambda x: x.astype(x.dtype.newbyteorder(">")),
    "lists": np.ndarray.tolist,
}


def assert_same(got: Any, right: Any, kind: type) -> None:
    if isinstance(right, Tensor):
        assert isinstance(got, kind)
        assert np.array_equal(np.asarray(got), right.numpy())
        return
    assert type(got) is type(right)
    parts = zip(got.values(), right.values(), strict=True) if isinstance(got, dict) else None
    for one, other in parts or zip(got, right, strict=True):
        assert_same(one, other, kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CALLS)
def test_the_values_are_those_of_tensors(name: str, kind: str) -> None:
    if (name, kind) == ("relevance_to_targets", "lists"):
        pytest.skip("a list is one of indices for each query")
    call, arguments = CALLS[name]
    right = call(*map(torch.tensor, arguments))
    assert_same(call(*map(KINDS[kind], arguments)), right, np.ndarray)
    rankings, *others = arguments
    assert_same(call(torch.tensor(rankings), *map(KINDS[kind], others)), right, Tensor)
    assert_same(call(KINDS[kind](rankings), *map(torch.tensor, others)), right, np.ndarray)


@pytest.mark.parametrize("kind", KINDS)
def test_means_over_batches(kind: str) -> None:
    make, ks = KINDS[kind], (1, 5)
    right, got = m.RetrievalMetrics(ks), m.RetrievalMetrics(ks)
    right.update(FOUND)
    got.update(m.Relevance(*(make(x.numpy()) for x in FOUND)))
    assert got.compute() == right.compute()
    right, got = m.KnnAccuracy(4), m.KnnAccuracy(4)
    right.update(*map(torch.tensor, (SCORES, INDICES, OWN, LABELS)))
    got.update(*map(make, (SCORES, INDICES, OWN, LABELS)))
    assert got.compute() == right.compute()


def test_targets_of_lists_go_with_arrays() -> None:
    lists = [row.nonzero()[0] for row in TARGETS]
    right = m.relevance_to_targets(torch.tensor(INDICES), lists)
    assert_same(m.relevance_to_targets(INDICES, lists), right, np.ndarray)


@pytest.mark.parametrize("wrong", [None, "labels", {"a": 1}, 1.5, object()])
def test_what_is_no_array_is_refused(wrong: Any) -> None:
    for call, name in (
        (lambda: m.relevance(wrong, OWN, LABELS), "indices"),
        (lambda: m.relevance(INDICES, wrong, LABELS), "query_labels"),
        (lambda: m.relevance_to_targets(INDICES, wrong), "targets"),
        (lambda: m.hit_rate_at_k(wrong, 1), "relevant"),
        (lambda: m.recall_at_k(RANKED, wrong, 1), "total"),
        (lambda: m.knn_predict(wrong, INDICES, LABELS, 4), "scores"),
        (lambda: m.knn_accuracy(wrong, OWN), "class_scores"),
    ):
        with pytest.raises((TypeError, ValueError), match=f"^{name} must .*; got "):
            call()
