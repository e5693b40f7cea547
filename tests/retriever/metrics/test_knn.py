"""Votes of the nearest, against plain loops."""

import math

import pytest
import torch
from rankings import CLASSES, random_votes
from torch import Tensor

from flashmatch.retriever import metrics as m


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
