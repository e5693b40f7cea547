"""Metrics against mmpretrain's: its numbers are percentages, of all scores of a query."""

from collections.abc import Sequence

import pytest
import torch
from mmpretrain import evaluation
from mmpretrain.structures import DataSample
from torch import Tensor

from flashmatch.retriever.metrics import (
    RetrievalMetrics,
    average_precision_at_k,
    hit_rate_at_k,
    relevance,
    relevance_to_targets,
)

QUERIES, PROTOTYPES = 37, 53
KS = (1, 3, 10, PROTOTYPES)


def problem(seed: int) -> tuple[Tensor, Tensor]:
    """Scores without ties, some below 0, and targets, at least one for each query: (Q, M)."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(QUERIES, PROTOTYPES, generator=generator).argsort(1)
    share = torch.rand(QUERIES, 1, generator=generator) * 0.4
    targets = torch.rand(QUERIES, PROTOTYPES, generator=generator) < share
    targets[:, 7] = True
    return order / PROTOTYPES - 0.5, targets


def ours(scores: Tensor, targets: Tensor | Sequence[list[int]], **options) -> dict[str, float]:
    metrics = RetrievalMetrics(ks=KS, **options)
    for rows in torch.arange(len(scores)).split(10):
        part = targets[rows] if isinstance(targets, Tensor) else [targets[i] for i in rows]
        indices = scores[rows].topk(PROTOTYPES).indices
        metrics.update(relevance_to_targets(indices, part))
    return metrics.compute()


def samples(scores: Tensor, lists: list[list[int]]) -> list[dict]:
    """What the evaluator hands to a metric."""
    pairs = zip(scores, lists, strict=True)
    return [DataSample().set_pred_score(s).set_gt_label(t).to_dict() for s, t in pairs]


def lists_of(targets: Tensor) -> list[list[int]]:
    return [row.nonzero()[:, 0].tolist() for row in targets]


def test_their_recall_is_the_hit_rate() -> None:
    scores, targets = problem(0)
    expected = evaluation.RetrievalRecall.calculate(scores, targets.float(), topk=KS)
    found = ours(scores, targets)
    for k, theirs in zip(KS, expected, strict=True):
        assert 100 * found[f"hit_rate@{k}"] == pytest.approx(float(theirs), rel=1e-6)
    assert found["recall@10"] < found["hit_rate@10"]


@pytest.mark.parametrize("k", KS)
@pytest.mark.parametrize("mode", ["IR", "integrate"])
def test_average_precision(mode: str, k: int) -> None:
    scores, targets = problem(k)
    expected = evaluation.RetrievalAveragePrecision.calculate(
        scores, targets.float(), topk=k, mode=mode
    )
    found = ours(scores, targets, ap_mode=mode)[f"mAP@{k}"]
    assert 100 * found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("mode", ["IR", "integrate"])
def test_through_process_and_evaluate(mode: str) -> None:
    scores, targets = problem(1)
    lists = lists_of(targets)
    recall = evaluation.RetrievalRecall(topk=KS)
    precision = evaluation.RetrievalAveragePrecision(topk=10, mode=mode)
    for metric in (recall, precision):
        metric.process([], samples(scores, lists))
    expected = recall.evaluate(QUERIES) | precision.evaluate(QUERIES)
    found = ours(scores, lists, ap_mode=mode)
    assert 100 * found["mAP@10"] == pytest.approx(expected["retrieval/mAP@10"], rel=1e-12)
    for k in KS:
        assert 100 * found[f"hit_rate@{k}"] == pytest.approx(expected[f"retrieval/Recall@{k}"])


@pytest.mark.parametrize("mode", ["IR", "integrate"])
def test_indices_some_beyond_any_ranking(mode: str) -> None:
    """Their documented example: rankings of 100, and lists of targets, some of them not there."""
    rankings = torch.arange(100).expand(3, -1)
    targets = [[0, 3, 6, 8, 35], [1, 2, 54, 105], [2, 42, 205]]
    expected = evaluation.RetrievalAveragePrecision.calculate(
        list(rankings), targets, 10, True, True, mode
    )
    batch = relevance_to_targets(rankings, targets)
    found = average_precision_at_k(batch.relevant, batch.total, 10, mode=mode).mean()
    assert 100 * float(found) == pytest.approx(expected, rel=1e-12)
    if mode == "IR":
        assert expected == pytest.approx(29.246031746031747)


def test_from_labels() -> None:
    scores, _ = problem(2)
    labels = torch.arange(PROTOTYPES) % 6
    queries = torch.arange(QUERIES) % 6
    targets = queries[:, None] == labels
    expected = evaluation.RetrievalAveragePrecision.calculate(scores, targets.float(), topk=10)
    batch = relevance(scores.topk(10).indices, queries, labels)
    found = average_precision_at_k(batch.relevant, batch.total, 10)
    assert 100 * float(found.mean()) == pytest.approx(expected, rel=1e-12)


def test_a_query_without_targets_counts_0_for_their_recall_and_breaks_their_precision() -> None:
    scores, targets = problem(3)
    targets[::4] = False
    (expected,) = evaluation.RetrievalRecall.calculate(scores, targets.float(), topk=3)
    batch = relevance_to_targets(scores.topk(10).indices, targets)
    found = hit_rate_at_k(batch.relevant, 3).mean()
    assert 100 * float(found) == pytest.approx(float(expected))
    assert ours(scores, targets)["hit_rate@3"] == pytest.approx(float(found))
    with pytest.raises(ZeroDivisionError):
        evaluation.RetrievalAveragePrecision.calculate(scores, targets.float(), topk=3)


def test_a_target_listed_twice_is_to_them_two_to_find() -> None:
    ranking = [torch.arange(4)]
    expected = evaluation.RetrievalAveragePrecision.calculate(ranking, [[1, 1]], 4, True, True)
    batch = relevance_to_targets(ranking[0][None], [[1, 1]])
    found = average_precision_at_k(batch.relevant, batch.total, 4)
    assert 100 * float(found) == pytest.approx(2 * expected) == 50
