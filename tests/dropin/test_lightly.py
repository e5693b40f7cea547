"""knn_predict beside lightly's; knn_classifier beside DINO's formula, written out."""

from math import isnan

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from flashmatch import PrototypeBank
from flashmatch.adapters import lightly as ours

knn = pytest.importorskip("lightly.utils.benchmarking.knn")


def draw(
    queries: int, rows: int, channels: int, classes: int, seed: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Unit features around a direction for each class, mixed well, and their classes."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, channels, generator=generator)
    labels = torch.randint(classes, (queries + rows,), generator=generator)
    noise = torch.randn(queries + rows, channels, generator=generator)
    features = F.normalize(centres[labels] + 2 * noise)
    return features[:queries], labels[:queries], features[queries:], labels[queries:]


def class_scores(
    queries: Tensor, features: Tensor, labels: Tensor, classes: int, k: int, t: float
) -> Tensor:
    """(Q, C) float64 by the definition: exp(score / t) summed over the k best of each class."""
    products = queries.double() @ features.double().T
    scores, indices = products.sort(dim=1, descending=True, stable=True)
    weights, votes = (scores[:, :k] / t).exp(), F.one_hot(labels[indices[:, :k]], classes)
    return (weights[:, :, None] * votes).sum(1)


def accuracies(scores: Tensor, labels: Tensor, k: int) -> tuple[float, float]:
    order = scores.argsort(dim=1, descending=True, stable=True)
    right = order == labels[:, None]
    return tuple(100 * right[:, :n].any(1).double().mean().item() for n in (1, min(5, k)))


@pytest.mark.hypothesis
@given(
    st.integers(1, 12),
    st.integers(1, 80),
    st.integers(4, 24),
    st.integers(1, 9),
    st.integers(1, 80),
    st.sampled_from([0.05, 0.1, 1.0]),
    st.integers(0, 10**6),
)
def test_as_knn_predict(
    queries: int, rows: int, channels: int, classes: int, k: int, t: float, seed: int
) -> None:
    query, _, features, labels = draw(queries, rows, channels, classes, seed)
    k = min(k, rows)
    scores = class_scores(query, features, labels, classes, k, t)
    found = ours.knn_predict(query, features.T, labels, classes, k, t)
    assert torch.equal(found, scores.argsort(dim=1, descending=True, stable=True))
    expected = knn.knn_predict(query, features.T, labels, classes, k, t)
    # In its order scores must not rise, but for what fp32 loses.
    ranked, wanted = scores.gather(1, found), scores.gather(1, expected)
    torch.testing.assert_close(ranked, wanted, rtol=1e-4, atol=0)
    assert found.dtype == expected.dtype


def test_as_lightly_on_well_separated_classes() -> None:
    query, labels, features, known = draw(64, 2000, 64, 10, 0)
    arguments = query, features.T.contiguous(), known, 10
    found = ours.knn_predict(*arguments)
    assert torch.equal(found, knn.knn_predict(*arguments))
    assert 0.3 < (found[:, 0] == labels).double().mean() < 1
    bank = PrototypeBank(features, metric="dot")
    assert torch.equal(ours.knn_predict(query, bank, known, 10), found)


def test_inside_lightlys_classifier(monkeypatch: pytest.MonkeyPatch) -> None:
    module = pytest.importorskip("lightly.utils.benchmarking.knn_classifier")
    query, labels, features, known = draw(40, 300, 16, 10, 1)

    def validate() -> dict:
        classifier = module.KNNClassifier(None, 10, 20, 0.1, 0, 1)
        classifier._trainer = None
        classifier.all_gather = lambda tensor: tensor[None]  # one process; it asks its trainer
        monkeypatch.setattr(module.KNNClassifier, "trainer", None)
        classifier.validation_step((features, known), 0, 0)
        return classifier.validation_step((query, labels), 0, 1)

    expected = validate()
    monkeypatch.setattr(module, "knn_predict", ours.knn_predict)
    assert validate() == expected
    assert 0 < expected["val_knn_top1"] < 1


def test_scores_beyond_the_exponential_still_rank() -> None:
    """Features that nobody normalised: exp(200) is inf in fp32, and inf * 0 is NaN."""
    query = torch.tensor([[10.0, 0.0]])
    features = torch.tensor([[1.0, 0.0], [0.9, 0.0], [2.0, 0.0]])
    labels = torch.tensor([2, 2, 1])
    arguments = query, features.T, labels, 3, 3, 0.1
    assert ours.knn_predict(*arguments).tolist() == [[1, 2, 0]]
    assert knn.knn_predict(*arguments).tolist() != [[1, 2, 0]]


def test_ties_go_to_the_lowest_class() -> None:
    labels = torch.tensor([3, 1, 3, 1, 0])
    found = ours.knn_predict(torch.ones(1, 2), torch.ones(2, 5), labels, 5, 4)
    assert found.tolist() == [[1, 3, 0, 2, 4]]


@pytest.mark.parametrize("k", [1, 3, 5, 20, 150])
@pytest.mark.parametrize("votes", [1, 100, ours.VOTES])
def test_as_dinos_classifier(k: int, votes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "VOTES", votes)
    query, labels, features, known = draw(53, 150, 16, 12, 2)
    scores = class_scores(query, features, known, 12, k, 0.07)
    expected = accuracies(scores, labels, k)
    found = ours.knn_classifier(features, known, query, labels, k, 0.07, 12)
    assert found == pytest.approx(expected)
    assert {type(share) for share in found} == {float}
    assert 10 < expected[0] <= expected[1] < 100 or k == 1


def test_several_k_at_once() -> None:
    query, labels, features, known = draw(53, 200, 16, 12, 3)
    ks = (1, 10, 200)
    together = ours.knn_accuracies(features, known, query, labels, ks, 0.1, 12)
    alone = {k: ours.knn_classifier(features, known, query, labels, k, 0.1, 12) for k in ks}
    assert together == alone
    assert len(set(together.values())) == 3
    bank = PrototypeBank(features, metric="dot")
    assert ours.knn_accuracies(bank, known, query, labels, ks, 0.1, 12) == alone
    arrays = (x.numpy() for x in (features, known, query, labels))
    assert ours.knn_accuracies(*arrays, ks, 0.1, 12) == alone  # type: ignore[arg-type]


def test_no_test_features_give_nan() -> None:
    empty = torch.empty(0, 3), torch.empty(0, dtype=torch.int64)
    found = ours.knn_classifier(torch.eye(3), torch.arange(3), *empty, k=2, T=0.1, num_classes=3)
    assert all(isnan(share) for share in found)


LABELS = torch.arange(3)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"feature_labels": LABELS + 1}, ValueError, "^feature_labels must be .* below 3"),
        ({"feature_labels": LABELS[:2]}, ValueError, r"feature_labels must have shape \(3,\)"),
        ({"feature_labels": LABELS + 0.5}, TypeError, "^feature_labels must be integers"),
        ({"knn_k": 4}, ValueError, "^knn_k must be between 0 and 3, the rows of feature_bank"),
        ({"knn_t": 0.0}, ValueError, "^knn_t must be above 0; got 0"),
        ({"num_classes": 0}, ValueError, "num_classes must be at least 1; got 0"),
        ({"feature": torch.ones(2, 4)}, ValueError, "^feature and feature_bank must have equally"),
        ({"feature_bank": torch.ones(3, 3, 3)}, ValueError, "feature_bank must have shape"),
    ],
)
def test_what_cannot_be_predicted_is_refused(change: dict, error: type, message: str) -> None:
    arguments = {"feature": torch.eye(3), "feature_bank": torch.eye(3), "feature_labels": LABELS}
    with pytest.raises(error, match=message):
        ours.knn_predict(**{**arguments, "num_classes": 3, "knn_k": 3, **change})


def test_what_cannot_be_evaluated_is_refused() -> None:
    eye = torch.eye(3)
    with pytest.raises(TypeError, match=r"ks must be a sequence of at least one int; got \(\)"):
        ours.knn_accuracies(eye, LABELS, eye, LABELS, ks=())
    with pytest.raises(ValueError, match="ks must be at least 1; got 0"):
        ours.knn_accuracies(eye, LABELS, eye, LABELS, ks=(0, 2))
    with pytest.raises(ValueError, match=r"train_labels must have shape \(3,\).*; got \(2,\)"):
        ours.knn_classifier(eye, LABELS[:2], eye, LABELS, 2, 0.1, 3)
    with pytest.raises(ValueError, match=r"test_labels must have shape \(3,\).*; got \(2,\)"):
        ours.knn_classifier(eye, LABELS, eye, LABELS[:2], 2, 0.1, 3)
