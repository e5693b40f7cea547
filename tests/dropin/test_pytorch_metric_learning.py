"""KNN beside FaissKNN and CustomKNN, alone and inside AccuracyCalculator and InferenceModel."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from programs import output_of
from torch import Tensor, nn

from flashmatch import PrototypeBank, topk
from flashmatch.adapters.pytorch_metric_learning import KNN

pytest.importorskip("pytorch_metric_learning")
pytest.importorskip("faiss")

from pytorch_metric_learning.distances import CosineSimilarity, DotProductSimilarity, LpDistance
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from pytorch_metric_learning.utils.inference import CustomKNN, FaissKNN, InferenceModel, MatchFinder

CPU = torch.device("cpu")


def integers(rows: int, channels: int, seed: int) -> Tensor:
    """Whole numbers so small that fp32 is exact in any order of adding: FAISS cannot be off."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-400, 401, (rows, channels), generator=generator).float()


def clustered(classes: int, each: int, channels: int, seed: int) -> tuple[Tensor, Tensor]:
    """Points around centres that are close enough for classes to mix, and their classes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(classes).repeat(each)
    noise = torch.randint(-300, 301, (classes * each, channels), generator=generator)
    return integers(classes, channels, seed + 1)[labels] // 2 + noise, labels


def has_ties(queries: Tensor, references: Tensor) -> bool:
    distances = torch.cdist(queries.double(), references.double()).square().round()
    return any(len(row.unique()) < len(row) for row in distances)


def all_metrics(knn: object, *data, k=None, **kwargs) -> dict:
    settings = {"k": k, "knn_func": knn, "kmeans_func": lambda x, n: (x[:, 0] > 0).long()}
    calculator = AccuracyCalculator(device=CPU, **settings, **kwargs.pop("options", {}))
    return calculator.get_accuracy(*data, **kwargs)


@pytest.mark.hypothesis
@given(
    st.integers(2, 40),
    st.integers(1, 20),
    st.integers(0, 10**6),
    st.booleans(),
    st.sampled_from([1, 5, 10**9]),
)
def test_as_faiss_knn(queries: int, more: int, seed: int, included: bool, k: int) -> None:
    references = integers(queries + more, 16, seed)
    query = references[:queries] if included else integers(queries, 16, seed + 1)
    assume(not has_ties(query, references))
    k = min(k, len(references) - included)
    expected = FaissKNN()(query, k, references, included)
    distances, indices = KNN()(query, k, references, included)
    assert torch.equal(indices, expected[1])
    assert torch.equal(distances, expected[0])
    assert (distances.dtype, indices.dtype) == (torch.float32, torch.int64)


@pytest.mark.parametrize(
    ("metric", "distance"),
    [
        ("cosine", CosineSimilarity()),
        ("dot", DotProductSimilarity(normalize_embeddings=False)),
        ("l2", LpDistance(normalize_embeddings=False, power=2)),
    ],
)
@pytest.mark.parametrize("included", [False, True])
def test_as_custom_knn(metric: str, distance: nn.Module, included: bool) -> None:
    references = torch.randn(60, 12, generator=torch.Generator().manual_seed(1))
    query = references[:23]
    expected = CustomKNN(distance)(query, 7, references, included)
    distances, indices = KNN(metric)(query, 7, references, included)
    assert torch.equal(indices, expected[1])
    torch.testing.assert_close(distances, expected[0], rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("k", [None, "max_bin_count", 1, 9])
@pytest.mark.parametrize("options", [{}, {"avg_of_avgs": True}, {"return_per_class": True}])
def test_accuracy_of_clusters(k: object, options: dict) -> None:
    embeddings, labels = clustered(6, 15, 16, seed=3)
    assert not has_ties(embeddings, embeddings)
    data = (embeddings, labels)
    expected = all_metrics(FaissKNN(), *data, k=k, options=options)
    assert all_metrics(KNN(), *data, k=k, options=options) == expected
    assert len(expected) == 7
    first = expected["precision_at_1"]
    assert 0.3 < np.mean(first) < 1  # so that a wrong neighbour would be seen


@pytest.mark.parametrize("included", [False, True])
def test_accuracy_of_queries_among_references(included: bool) -> None:
    references = integers(60, 16, 5)
    query = references[:30] if included else integers(30, 16, 7)
    labels = torch.arange(60) % 7
    assert not has_ties(query, references)
    data = (query, labels[:30], references, labels, included)
    assert all_metrics(KNN(), *data) == all_metrics(FaissKNN(), *data)


def test_accuracy_from_arrays_and_with_lone_labels() -> None:
    embeddings, labels = integers(40, 16, 8).numpy(), np.arange(40) // 3  # the last is alone
    assert all_metrics(KNN(), embeddings, labels) == all_metrics(FaissKNN(), embeddings, labels)


def test_a_query_is_left_out_and_its_duplicates_are_not() -> None:
    same = torch.ones(5, 3)
    _, indices = KNN()(same, 2, same, True)
    assert indices.tolist() == [[1, 2], [0, 2], [0, 1], [0, 1], [0, 1]]
    mask = ~torch.eye(5, dtype=torch.bool)
    assert torch.equal(indices, topk(same, same, 2, metric="l2", mask=mask).indices)


def test_the_nearest_is_at_distance_plus_zero() -> None:
    distances, _ = KNN()(torch.ones(1, 3), 1, torch.ones(2, 3))
    assert not torch.signbit(distances).any()


def inference_model(knn: object, normalize: bool = True) -> InferenceModel:
    finder = MatchFinder(distance=CosineSimilarity(), threshold=0.3)
    trunk = nn.Identity()
    options = {"normalize_embeddings": normalize, "data_device": CPU, "match_finder": finder}
    return InferenceModel(trunk, knn_func=knn, **options)


@pytest.mark.parametrize("normalize", [False, True])
def test_inference_model(normalize: bool, tmp_path: Path) -> None:
    gallery, query = integers(90, 16, 11), integers(10, 16, 12)
    assert not has_ties(query, gallery)
    ours = inference_model(KNN(), normalize)
    original = inference_model(FaissKNN(reset_before=False, reset_after=False), normalize)
    for model in (ours, original):
        model.train_knn(gallery[:50], batch_size=16)
        model.add_to_knn([*gallery[50:]])
    expected = original.get_nearest_neighbors(query, 90)
    found = ours.get_nearest_neighbors(query, 90)
    assert torch.equal(found[1], expected[1])
    torch.testing.assert_close(found[0], expected[0], rtol=0, atol=1e-6 if normalize else 0)
    assert ours.is_match(query[:1], query[:1]) is original.is_match(query[:1], query[:1]) is True
    verdicts = ours.is_match(query, gallery[:10])
    assert np.array_equal(verdicts, original.is_match(query, gallery[:10]))

    ours.save_knn_func(tmp_path / "index.safetensors")
    again = inference_model(KNN(), normalize)
    again.load_knn_func(tmp_path / "index.safetensors")
    for result, before in zip(again.get_nearest_neighbors(query, 90), found, strict=True):
        assert torch.equal(result, before)
    again.add_to_knn(query)
    assert again.get_nearest_neighbors(query, 1)[1].flatten().tolist() == list(range(90, 100))
    ours.train_knn(query)
    assert ours.get_nearest_neighbors(query, 1)[1].flatten().tolist() == list(range(10))


def test_the_index_holds_a_copy_and_is_left_alone_by_other_references() -> None:
    gallery, query = integers(20, 16, 1), integers(3, 16, 2)
    knn = KNN("dot")
    knn.train(gallery)
    before = knn(query, 4)
    gallery.zero_()
    knn(query, 1, reference=query)
    assert all(map(torch.equal, knn(query, 4), before))
    assert isinstance(knn.index, PrototypeBank)
    knn.reset()
    assert knn.index is None


def test_no_gradient_comes_with_the_distances() -> None:
    query = torch.ones(2, 3, requires_grad=True)
    assert not KNN()(query, 1, torch.eye(3))[0].requires_grad


@pytest.mark.parametrize(
    ("k", "included", "message"),
    [
        (4, False, "k must be between 0 and 3, the number of references; got 4"),
        (3, True, "between 0 and 2, the number of references other than the query; got 3"),
        (-1, True, "k must be at least 0; got -1"),
        (1.0, False, "k must be an int; got float"),
    ],
)
def test_too_many_neighbours_are_refused(k: int, included: bool, message: str) -> None:
    eye = torch.eye(3)
    with pytest.raises((TypeError, ValueError), match=message):
        KNN()(eye, k, eye, included)
    knn = KNN()
    knn.train(eye)
    with pytest.raises((TypeError, ValueError), match=message):
        knn(eye, k, None, included)


def test_what_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="metric must be one of"):
        KNN("euclidean")
    with pytest.raises(ValueError, match="nonfinite must be one of"):
        KNN(nonfinite="ignore")
    with pytest.raises(ValueError, match="reference must be given where there is no index"):
        KNN()(torch.eye(3), 1)
    with pytest.raises(ValueError, match="there must be an index to save; got none"):
        KNN().save(tmp_path / "none")
    with pytest.raises(ValueError, match="query must be finite"):
        KNN()(torch.full((1, 3), torch.nan), 1, torch.eye(3))
    with pytest.raises(TypeError, match="query must be a tensor, an array or a list of rows"):
        KNN()("query", 1, torch.eye(3))  # type: ignore[arg-type]
    knn = KNN("cosine")
    knn.train(torch.eye(3))
    knn.save(tmp_path / "index")
    with pytest.raises(ValueError, match=r"an index for metric 'l2'; .* is for 'cosine'"):
        KNN("l2").load(tmp_path / "index")


def test_what_is_not_finite_is_passed_over_if_asked() -> None:
    references = torch.tensor([[torch.nan, 0.0], [1.0, 0.0], [5.0, 0.0]])
    knn = KNN(nonfinite="exclude")
    assert knn(torch.zeros(1, 2), 2, references)[1].tolist() == [[1, 2]]
    knn.train(references)
    assert knn(torch.zeros(1, 2), 2)[1].tolist() == [[1, 2]]


def test_the_adapters_import_none_of_the_originals() -> None:
    program = """
import sys
import flashmatch.adapters.lightly, flashmatch.adapters.pytorch_metric_learning
import flashmatch.adapters.sentence_transformers
originals = {"faiss", "lightly", "pytorch_metric_learning", "sentence_transformers"}
print(*(originals & set(sys.modules)))
"""
    assert output_of("-c", program).strip() == ""
