"""Metrics against torchmetrics' numbers: it sees all scores of a query, ours the best k."""

import math
import warnings

import pytest
import torch
from torch import Tensor
from torchmetrics import retrieval as tm

import flashmatch
from flashmatch.retriever.metrics import RetrievalMetrics, relevance, relevance_to_targets

QUERIES, PROTOTYPES = 37, 53
KS = (1, 3, 10, PROTOTYPES)
EMPTY = ("neg", "pos", "skip")


def problem(seed: int) -> tuple[Tensor, Tensor]:
    """Scores above 0 without ties, and targets, (Q, M); some queries have none."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(QUERIES, PROTOTYPES, generator=generator).argsort(1)
    share = torch.rand(QUERIES, 1, generator=generator) * 0.4
    targets = torch.rand(QUERIES, PROTOTYPES, generator=generator) < share
    targets[::5] = False
    return (order + 1) / (PROTOTYPES + 1), targets


def ours(scores: Tensor, targets: Tensor, ranks: int = PROTOTYPES, **options) -> dict[str, float]:
    metrics = RetrievalMetrics(**{"ks": KS, **options})
    for rows in torch.arange(len(scores)).split(10):
        indices = scores[rows].topk(ranks).indices
        metrics.update(relevance_to_targets(indices, targets[rows]))
    return metrics.compute()


def theirs(metric: tm.base.RetrievalMetric, scores: Tensor, targets: Tensor) -> float:
    queries = torch.arange(len(scores))[:, None].expand_as(scores)
    metric.update(scores, targets, indexes=queries)
    return float(metric.compute())


@pytest.mark.parametrize("empty", EMPTY)
@pytest.mark.parametrize("k", KS)
@pytest.mark.parametrize(
    ("name", "original", "options"),
    [
        ("hit_rate", tm.RetrievalHitRate, {}),
        ("recall", tm.RetrievalRecall, {}),
        ("precision", tm.RetrievalPrecision, {}),
        ("MRR", tm.RetrievalMRR, {}),
        ("mAP", tm.RetrievalMAP, {"ap_divisor": "found"}),
    ],
)
def test_metrics_at_k(name: str, original: type, options: dict, k: int, empty: str) -> None:
    scores, targets = problem(k)
    expected = theirs(original(top_k=k, empty_target_action=empty), scores, targets)
    found = ours(scores, targets, empty=empty, **options)
    assert found[f"{name}@{k}"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("divisor", ["relevant", "attainable", "found"])
def test_without_a_cutoff_all_divisors_are_theirs(divisor: str) -> None:
    scores, targets = problem(1)
    expected = theirs(tm.RetrievalMAP(), scores, targets)
    found = ours(scores, targets, ap_divisor=divisor)[f"mAP@{PROTOTYPES}"]
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("empty", EMPTY)
def test_r_precision(empty: str) -> None:
    scores, targets = problem(2)
    expected = theirs(tm.RetrievalRPrecision(empty_target_action=empty), scores, targets)
    ranks = int(targets.sum(1).max())
    assert ranks < PROTOTYPES
    found = ours(scores, targets, ranks, ks=(1,), empty=empty, r_precision="exact")
    assert found["R_precision"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("adaptive", [False, True])
def test_precision_at_more_than_there_are(adaptive: bool) -> None:
    """A gallery of 53 and k = 60: rankings are padded, as a search with a mask pads them."""
    scores, targets = problem(3)
    expected = theirs(tm.RetrievalPrecision(top_k=60, adaptive_k=adaptive), scores, targets)
    indices = torch.nn.functional.pad(scores.argsort(1, descending=True), (0, 7), value=-1)
    metrics = RetrievalMetrics(ks=(60,), adaptive_k=adaptive)
    metrics.update(relevance_to_targets(indices, targets))
    assert metrics.compute()["precision@60"] == pytest.approx(expected, rel=1e-6)


def test_a_query_without_targets_is_an_error_at_the_end() -> None:
    scores, targets = problem(4)
    with pytest.raises(ValueError, match="no positive target"):
        theirs(tm.RetrievalMAP(empty_target_action="error"), scores, targets)
    with pytest.raises(ValueError, match="queries must have a relevant prototype"):
        ours(scores, targets, empty="error")


def test_where_every_query_is_skipped_they_say_0_and_we_nan() -> None:
    scores, targets = problem(5)
    assert theirs(tm.RetrievalMAP(empty_target_action="skip"), scores, targets & False) == 0
    assert math.isnan(ours(scores, targets & False, empty="skip")["mAP@1"])


def test_scores_below_0_are_never_relevant_to_them() -> None:
    """So their numbers for distances need a shift; hit rate and R-precision alone do not."""
    scores, targets = problem(6)
    found = ours(scores, targets, ap_divisor="found")
    for original, name in (
        (tm.RetrievalRecall, "recall"),
        (tm.RetrievalPrecision, "precision"),
        (tm.RetrievalMAP, "mAP"),
        (tm.RetrievalMRR, "MRR"),
    ):
        assert theirs(original(top_k=3), scores - 2, targets) == 0
        assert found[f"{name}@3"] > 0
    hit_rate = theirs(tm.RetrievalHitRate(top_k=3), scores - 2, targets)
    assert hit_rate == pytest.approx(found["hit_rate@3"])


def test_from_vectors_and_labels() -> None:
    """Leave one out: theirs by taking the pairs of a query with itself away."""
    generator = torch.Generator().manual_seed(7)
    labels = torch.randint(5, (PROTOTYPES,), generator=generator)
    vectors = torch.randn(PROTOTYPES, 8, generator=generator) + torch.eye(8)[labels]
    others = ~torch.eye(PROTOTYPES, dtype=torch.bool)
    cosines, order = flashmatch.topk(vectors, vectors, PROTOTYPES)
    scores = torch.empty_like(cosines).scatter_(1, order, cosines + 1.5)
    targets = labels[:, None] == labels
    indices = flashmatch.topk(vectors, vectors, 11).indices
    metrics = RetrievalMetrics(ks=(10,), ap_divisor="found")
    metrics.update(relevance(indices, labels, labels, exclude_self=torch.arange(PROTOTYPES)))
    found = metrics.compute()
    queries = torch.arange(PROTOTYPES)[:, None].expand_as(scores)[others]
    for name, original in (("recall", tm.RetrievalRecall), ("mAP", tm.RetrievalMAP)):
        metric = original(top_k=10)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            metric.update(scores[others], targets[others], indexes=queries)
        assert found[f"{name}@10"] == pytest.approx(float(metric.compute()), rel=1e-6)
