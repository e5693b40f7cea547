"""Metrics against plain loops over queries and ranks."""

import math
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from two_processes import in_two_processes

from flashmatch.retriever import metrics as m
from flashmatch.retriever.metrics import KnnAccuracy, Relevance, RetrievalMetrics, relevance

QUERIES, PROTOTYPES, CLASSES, RANKS = 41, 67, 9, 13
KS = (1, 2, 5, RANKS)


def random_batch(
    seed: int, queries: int = QUERIES, ranks: int = RANKS
) -> tuple[Tensor, Tensor, Tensor]:
    """Rankings with some tails of -1, and labels; some classes have no prototype."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(queries, PROTOTYPES, generator=generator).argsort(1)[:, :ranks]
    present = torch.randint(0, 3 * ranks, (queries, 1), generator=generator)
    indices = order.masked_fill(torch.arange(ranks) >= present, -1)
    query_labels = torch.randint(-2, CLASSES, (queries,), generator=generator)
    prototype_labels = torch.randint(-2, CLASSES - 2, (PROTOTYPES,), generator=generator)
    return indices, query_labels, prototype_labels


# Plain loops: of one query, which has the prototypes `wanted` to find, and found `ranking`.


def plain_average_precision(
    ranking: list[int], wanted: set[int], k: int, mode: str, divisor: str
) -> float:
    found, summed = 0, 0.0
    for rank, index in enumerate(ranking[:k], start=1):
        if index in wanted:
            before = found / (rank - 1) if rank > 1 else 1.0
            found += 1
            summed += found / rank if mode == "IR" else (before + found / rank) / 2
    parts = {"relevant": len(wanted), "attainable": min(k, len(wanted)), "found": found}[divisor]
    return summed / parts if parts else 0.0


def plain(name: str, ranking: list[int], wanted: set[int], k: int) -> float:
    hits = [index in wanted for index in ranking[:k]]
    if name == "hit_rate":
        return float(any(hits))
    if name == "recall":
        return sum(hits) / len(wanted) if wanted else 0.0
    if name == "precision":
        return sum(hits) / k
    if name == "MRR":
        return 1 / (hits.index(True) + 1) if any(hits) else 0.0
    assert name == "mAP"
    return plain_average_precision(ranking, wanted, k, "IR", "relevant")


def wanted_of(query_labels: Tensor, prototype_labels: Tensor) -> list[set[int]]:
    labels = prototype_labels.tolist()
    return [{i for i, p in enumerate(labels) if p == q} for q in query_labels.tolist()]


def per_query(batch: Relevance, k: int) -> dict[str, Tensor]:
    return {
        "hit_rate": m.hit_rate_at_k(batch.relevant, k),
        "recall": m.recall_at_k(batch.relevant, batch.total, k),
        "precision": m.precision_at_k(batch.relevant, k),
        "mAP": m.average_precision_at_k(batch.relevant, batch.total, k),
        "MRR": m.reciprocal_rank(batch.relevant, k),
    }


def assert_equal(ours: Tensor, expected: Sequence[float]) -> None:
    assert ours.dtype == torch.float64
    torch.testing.assert_close(ours, torch.tensor(expected, dtype=ours.dtype), rtol=1e-14, atol=0)


# Relevance


@pytest.mark.parametrize("seed", range(3))
def test_relevance_is_equality_of_labels(seed: int) -> None:
    indices, queries, prototypes = random_batch(seed)
    relevant, total, retrieved = relevance(indices, queries, prototypes)
    wanted = wanted_of(queries, prototypes)
    rankings = indices.tolist()
    assert relevant.tolist() == [[i in w for i in r] for r, w in zip(rankings, wanted, strict=True)]
    assert total.tolist() == [len(w) for w in wanted]
    assert 0 in total
    assert retrieved.tolist() == [sum(i >= 0 for i in r) for r in rankings]
    assert min(retrieved.tolist()) < RANKS


def test_labels_may_be_lists_and_arrays() -> None:
    indices = torch.tensor([[2, 0]], dtype=torch.int32)
    for labels in ([7, 8, 9], np.array([7, 8, 9]), torch.tensor([7, 8, 9], dtype=torch.uint8)):
        batch = relevance(indices, [9], labels)
        assert batch.relevant.tolist() == [[True, False]]
        assert batch.total.tolist() == [1]


def test_no_queries_and_no_prototypes() -> None:
    batch = relevance(torch.zeros(0, 3, dtype=torch.int64), [], [1, 2])
    assert [tuple(part.shape) for part in batch] == [(0, 3), (0,), (0,)]
    assert all(len(values) == 0 for values in per_query(batch, 3).values())
    batch = relevance(torch.full((2, 3), -1), [0, 1], [])
    assert not batch.relevant.any()
    assert batch.total.tolist() == batch.retrieved.tolist() == [0, 0]


@pytest.mark.parametrize("seed", range(3))
def test_targets_are_a_matrix_or_lists(seed: int) -> None:
    indices, queries, prototypes = random_batch(seed)
    expected = relevance(indices, queries, prototypes)
    lists = [sorted(w) for w in wanted_of(queries, prototypes)]
    matrix = queries[:, None] == prototypes
    for targets in (
        lists,
        [torch.tensor(each, dtype=torch.int64) for each in lists],
        [each + each for each in lists],
        matrix,
        matrix.float() * 0.3,
        matrix.long().numpy(),
    ):
        for ours, theirs in zip(m.relevance_to_targets(indices, targets), expected, strict=True):
            assert torch.equal(ours, theirs)


def test_no_match_is_not_the_last_row_of_the_query_before() -> None:
    targets = [[2**32 - 1, 5], [5]]
    batch = m.relevance_to_targets(torch.tensor([[2**32 - 1, 5], [-1, 5]]), targets)
    assert batch.relevant.tolist() == [[True, True], [False, True]]
    batch = m.relevance_to_targets(torch.tensor([[5, 6], [5, 6]]), targets, exclude_self=[5, -1])
    assert batch.total.tolist() == [1, 1]


@pytest.mark.parametrize("form", ["labels", "lists", "matrix"])
def test_leave_one_out_takes_the_query_out_of_ranking_and_total(form: str) -> None:
    """Queries are prototypes; some rank behind their double, some are beyond the last rank."""
    indices, _, prototypes = random_batch(5)
    selves = indices[:, 4].clone()  # some are -1, for which nothing is taken out
    selves[::3] = (indices[::3, 0] + 1) % PROTOTYPES
    labels = torch.where(selves < 0, 0, prototypes[selves])
    matrix = labels[:, None] == prototypes
    lists = [row.nonzero()[:, 0].tolist() for row in matrix]
    targets = {"lists": lists, "matrix": matrix}
    if form == "labels":
        batch = relevance(indices, labels, prototypes, exclude_self=selves)
    else:
        batch = m.relevance_to_targets(indices, targets[form], exclude_self=selves)
    wanted = wanted_of(labels, prototypes)
    for row, self_index in enumerate(selves.tolist()):
        ranking = indices[row].tolist()
        found = self_index in ranking and self_index >= 0
        ranking = [i for i in ranking if i != self_index] if found else ranking[:-1]
        assert batch.relevant[row].tolist() == [i in wanted[row] - {self_index} for i in ranking]
        assert int(batch.total[row]) == len(wanted[row] - {self_index})
        assert int(batch.retrieved[row]) == sum(i >= 0 for i in ranking)


# Functions, query by query


@pytest.mark.parametrize("k", KS)
@pytest.mark.parametrize("name", ["hit_rate", "recall", "precision", "mAP", "MRR"])
def test_metrics_at_k(name: str, k: int) -> None:
    indices, queries, prototypes = random_batch(k)
    ours = per_query(relevance(indices, queries, prototypes), k)[name]
    wanted = wanted_of(queries, prototypes)
    expected = [plain(name, r, w, k) for r, w in zip(indices.tolist(), wanted, strict=True)]
    assert_equal(ours, expected)


@pytest.mark.parametrize("k", KS)
@pytest.mark.parametrize("divisor", ["relevant", "attainable", "found"])
@pytest.mark.parametrize("mode", ["IR", "integrate"])
def test_average_precision(mode: str, divisor: str, k: int) -> None:
    indices, queries, prototypes = random_batch(100 + k)
    relevant, total, _ = relevance(indices, queries, prototypes)
    ours = m.average_precision_at_k(relevant, total, k, mode=mode, divisor=divisor)
    wanted = wanted_of(queries, prototypes)
    pairs = zip(indices.tolist(), wanted, strict=True)
    assert_equal(ours, [plain_average_precision(r, w, k, mode, divisor) for r, w in pairs])


def test_average_precision_by_hand() -> None:
    """Relevant at ranks 1, 3 and 6, and one that was not found."""
    relevant = torch.tensor([[1, 0, 1, 0, 0, 1]]).bool()
    total = torch.tensor([4])
    for mode, divisor, expected in (
        ("IR", "relevant", (1 / 1 + 2 / 3 + 3 / 6) / 4),
        ("IR", "found", (1 / 1 + 2 / 3 + 3 / 6) / 3),
        ("integrate", "relevant", (1 + (1 / 2 + 2 / 3) / 2 + (2 / 5 + 3 / 6) / 2) / 4),
    ):
        ours = m.average_precision_at_k(relevant, total, 6, mode=mode, divisor=divisor)
        assert_equal(ours, [expected])
    assert_equal(m.average_precision_at_k(relevant, total, 3, divisor="attainable"), [5 / 9])


def test_precision_of_what_was_retrieved() -> None:
    indices = torch.tensor([[1, 0, -1, -1], [0, 1, -1, -1], [-1] * 4])
    relevant, _, retrieved = relevance(indices, [0, 0, 0], [0, 1])
    assert_equal(m.precision_at_k(relevant, 3), [1 / 3, 1 / 3, 0])
    assert_equal(m.precision_at_k(relevant, 3, retrieved), [1 / 2, 1 / 2, 0])
    assert_equal(m.precision_at_k(relevant, 1, retrieved), [0, 1, 0])


@pytest.mark.parametrize("truncate", [False, True])
def test_r_precision(truncate: bool) -> None:
    indices, queries, prototypes = random_batch(8, ranks=5 if truncate else 20)
    relevant, total, _ = relevance(indices, queries, prototypes)
    expected = []
    for ranking, wanted in zip(indices.tolist(), wanted_of(queries, prototypes), strict=True):
        ranks = min(len(wanted), len(ranking))
        hits = sum(i in wanted for i in ranking[:ranks])
        expected.append(hits / ranks if ranks else 0)
    assert_equal(m.r_precision(relevant, total, truncate=truncate), expected)
    if truncate:
        with pytest.raises(ValueError, match=r"which \d+ of the queries do not have"):
            m.r_precision(relevant, total)


# k nearest neighbours


def plain_class_scores(
    scores: Tensor, indices: Tensor, labels: Tensor, temperature: float | None
) -> list[list[float]]:
    rows = []
    for row, ranking in enumerate(indices.tolist()):
        votes = [0.0] * CLASSES
        for score, index in zip(scores[row].tolist(), ranking, strict=True):
            if index >= 0:
                weight = math.exp(score / temperature) if temperature else 1.0
                votes[int(labels[index])] += weight
        divisor = (sum(votes) or 1.0) if temperature else 1.0
        rows.append([vote / divisor for vote in votes])
    return rows


def random_votes(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    indices, queries, prototypes = random_batch(seed)
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(indices.shape, generator=generator).sort(1, descending=True).values
    scores = scores.masked_fill(indices < 0, -math.inf)
    return scores, indices, queries.clamp(min=0), prototypes.clamp(min=0)


@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_softmax_votes(temperature: float) -> None:
    scores, indices, _, labels = random_votes(1)
    ours = m.knn_predict(scores, indices, labels, CLASSES, temperature=temperature)
    expected = plain_class_scores(scores, indices, labels, temperature)
    torch.testing.assert_close(ours, torch.tensor(expected).double(), rtol=1e-6, atol=0)
    present = (indices >= 0).any(1)
    assert not present.all()
    torch.testing.assert_close(ours.sum(1), present.double())


def test_uniform_and_callable_votes() -> None:
    scores, indices, _, labels = random_votes(2)
    ours = m.knn_predict(scores, indices, labels, CLASSES, weights="uniform")
    assert ours.tolist() == plain_class_scores(scores, indices, labels, None)
    exponential = m.knn_predict(
        scores, indices, labels, CLASSES, weights=lambda s: (s / 0.07).exp()
    )
    softmax = m.knn_predict(scores, indices, labels, CLASSES)
    sums = exponential.sum(1, keepdim=True)
    torch.testing.assert_close(exponential / sums.where(sums > 0, 1), softmax)


def test_votes_far_apart_keep_their_order() -> None:
    """Squared distances differ by hundreds of temperatures."""
    ours = m.knn_predict(torch.tensor([[0.0, -20.0]]), torch.tensor([[0, 1]]), [0, 2], 3)
    assert m.class_ranks(ours, [2]).tolist() == [1]


def test_classes_tie_in_favour_of_the_lowest() -> None:
    class_scores = torch.tensor([[2.0, 3.0, 3.0, 2.0, 0.0]]).repeat(5, 1)
    assert m.class_ranks(class_scores, range(5)).tolist() == [2, 0, 1, 3, 4]
    accuracy = m.knn_accuracy(class_scores, range(5), topk=(1, 3))
    assert {name: float(value) for name, value in accuracy.items()} == pytest.approx(
        {"top1": 0.2, "top3": 0.6}
    )


def test_leave_one_out_votes() -> None:
    scores = torch.tensor([[0.9, 0.8, 0.7], [0.9, 0.8, 0.7]])
    indices = torch.tensor([[2, 0, 1], [0, 2, 1]])
    ours = m.knn_predict(scores, indices, [0, 1, 1], 2, weights=lambda s: s, exclude_self=[0, 1])
    torch.testing.assert_close(ours, torch.tensor([[0.0, 1.6], [0.9, 0.8]]).double())


# Over batches


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


# Refusals

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
