"""Metrics of each query, against plain loops."""

from collections.abc import Sequence

import pytest
import torch
from rankings import RANKS, per_query, random_batch, wanted_of
from torch import Tensor

from flashmatch.retriever import metrics as m
from flashmatch.retriever.metrics import relevance

KS = (1, 2, 5, RANKS)


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


def assert_equal(ours: Tensor, expected: Sequence[float]) -> None:
    assert ours.dtype == torch.float64
    torch.testing.assert_close(ours, torch.tensor(expected, dtype=ours.dtype), rtol=1e-14, atol=0)


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
