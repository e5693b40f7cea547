"""Means over batches, merges and processes."""

import math
import pickle
from pathlib import Path

import pytest
import torch
from rankings import CLASSES, per_query, random_batch, random_votes
from two_processes import in_two_processes

from flashmatch.retriever import metrics as m
from flashmatch.retriever.metrics import KnnAccuracy, Relevance, RetrievalMetrics, relevance


def batches(count: int, **lengths: int) -> list[Relevance]:
    return [relevance(*random_batch(seed, **lengths)) for seed in range(count)]


@pytest.mark.parametrize("empty", ["neg", "pos", "skip"])
def test_means_over_batches(empty: str) -> None:
    parts = [*batches(3), *batches(1, queries=2), relevance(*random_batch(3, queries=0))]
    metrics = RetrievalMetrics(ks=(5, 1), empty=empty, r_precision="truncate")
    for part in parts:
        metrics.update(part)
    whole = Relevance(*(torch.cat(column) for column in zip(*parts, strict=True)))
    values = {f"{n}@{k}": v for k in (1, 5) for n, v in per_query(whole, k).items()}
    values["R_precision"] = m.r_precision(whole.relevant, whole.total, truncate=True)
    none = whole.total == 0
    assert none.any()
    expected = {}
    for name, value in values.items():
        value = value.masked_fill(none, float(empty == "pos"))
        expected[name] = float((value[~none] if empty == "skip" else value).mean())
    assert metrics.compute() == pytest.approx(expected, rel=1e-12)
    assert list(metrics.compute()) == [
        *(f"{n}@{k}" for n in ("hit_rate", "recall", "precision", "mAP", "MRR") for k in (1, 5)),
        "R_precision",
    ]
    assert metrics.compute() == metrics.compute()
    metrics.reset()
    assert all(math.isnan(value) for value in metrics.compute().values())


def test_options_reach_the_functions() -> None:
    batch = relevance(torch.tensor([[0, 1, 2, -1], [1, 2, 0, -1]]), [7, 7], [7, 8, 7])
    metrics = RetrievalMetrics(ks=(4,), ap_mode="integrate", ap_divisor="found", adaptive_k=True)
    metrics.update(batch)
    assert metrics.compute()["precision@4"] == pytest.approx(2 / 3)
    average = m.average_precision_at_k(
        batch.relevant, batch.total, 4, mode="integrate", divisor="found"
    )
    assert metrics.compute()["mAP@4"] == pytest.approx(float(average.mean()))
    assert "R_precision" not in metrics.compute()


def test_merged_is_as_one() -> None:
    one, two, both = (RetrievalMetrics() for _ in range(3))
    for part, into in zip(batches(2), (one, two), strict=True):
        into.update(part)
        both.update(part)
    alone = two.compute()
    assert RetrievalMetrics().merge(two).merge(RetrievalMetrics()).compute() == alone
    assert pickle.loads(pickle.dumps(one)).merge(two).compute() == pytest.approx(both.compute())
    assert one.merge(two) is one
    assert one.compute() == pytest.approx(both.compute())
    assert two.compute() == alone
    with pytest.raises(ValueError, match="other must be a RetrievalMetrics of the same arguments"):
        one.merge(RetrievalMetrics(empty="skip"))
    with pytest.raises(ValueError, match="got a KnnAccuracy"):
        one.merge(KnnAccuracy(3))  # pyright: ignore[reportArgumentType]


def test_updates_in_and_out_of_inference_mode() -> None:
    metrics, (batch,) = RetrievalMetrics(), batches(1)
    with torch.inference_mode():
        metrics.update(batch)
    once = metrics.compute()
    metrics.update(batch)
    assert metrics.compute() == pytest.approx(once)


def test_updates_wait_for_no_device() -> None:
    """On the meta device there are no values to wait for: asking for one raises."""
    indices, queries, prototypes = (part.to("meta") for part in random_batch(0))
    metrics = RetrievalMetrics(r_precision="exact", empty="error", adaptive_k=True)
    metrics.update(relevance(indices, queries, prototypes, exclude_self=queries))
    metrics.update(m.relevance_to_targets(indices, queries[:, None] == prototypes))
    scores, knn = torch.zeros(indices.shape, device="meta"), KnnAccuracy(CLASSES)
    knn.update(scores, indices, queries, prototypes, exclude_self=queries)
    for accumulated in (metrics, knn):
        with pytest.raises(RuntimeError, match="meta"):
            accumulated.compute()


def test_memory_does_not_grow() -> None:
    metrics, sizes = RetrievalMetrics(), set()
    for part in batches(5):
        metrics.update(part)
        sizes.add(len(pickle.dumps(metrics)))
    assert len(sizes) == 1


def test_knn_over_batches() -> None:
    accuracy = KnnAccuracy(CLASSES, topk=(1, 3), temperature=0.2)
    ranks = []
    for seed in range(3):
        scores, indices, queries, labels = random_votes(seed)
        accuracy.update(scores, indices, queries, labels)
        class_scores = m.knn_predict(scores, indices, labels, CLASSES, temperature=0.2)
        order = class_scores.sort(dim=1, descending=True, stable=True).indices
        ranks.append(order.eq(queries[:, None]).long().argmax(1))
    expected = {f"top{k}": float((torch.cat(ranks) < k).double().mean()) for k in (1, 3)}
    assert 0 < expected["top1"] < expected["top3"] < 1
    assert accuracy.compute() == pytest.approx(expected)


def computed(rank: int) -> list[dict[str, float]]:
    metrics, knn = RetrievalMetrics(), KnnAccuracy(CLASSES)
    for part in batches(3)[rank::2] if rank == 0 else batches(3)[1:2]:
        metrics.update(part)
    if rank == 0:  # the other has no queries at all
        knn.update(*random_votes(0))
    return [metrics.compute(), metrics.compute(), metrics.compute(sync=False), knn.compute()]


def test_two_processes_report_the_same(tmp_path: Path) -> None:
    everything, knn = RetrievalMetrics(), KnnAccuracy(CLASSES)
    for part in batches(3):
        everything.update(part)
    knn.update(*random_votes(0))
    expected, alone = everything.compute(), []
    for first, second, own, voted in in_two_processes(computed, tmp_path):
        assert first == second == pytest.approx(expected)
        assert voted == pytest.approx(knn.compute())
        alone.append(own["mAP@5"])
    assert alone[0] != alone[1]
