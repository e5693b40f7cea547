"""Metrics and votes against what four more libraries say."""

import pytest
import torch
from lightly.utils import benchmarking
from pytorch_metric_learning.utils import accuracy_calculator as pml
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor
from torch.nn import functional as F

import flashmatch
from flashmatch.retriever import metrics as m

QUERIES, PROTOTYPES, CLASSES, K = 43, 131, 7, 20


@pytest.fixture(scope="module")
def data() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Unit vectors and labels, of queries and of prototypes."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(CLASSES, (QUERIES + PROTOTYPES,), generator=generator)
    vectors = torch.randn(len(labels), 16, generator=generator) + 2 * torch.eye(16)[labels]
    vectors = F.normalize(vectors)
    return vectors[:QUERIES], labels[:QUERIES], vectors[QUERIES:], labels[QUERIES:]


@pytest.mark.parametrize("k", [5, K])
def test_lightly_votes(data: tuple[Tensor, Tensor, Tensor, Tensor], k: int) -> None:
    """exp(cosine / T), as DINO's; where its sort ranks classes without votes, any order goes."""
    queries, query_labels, prototypes, labels = data
    order = benchmarking.knn_predict(queries, prototypes.T, labels, CLASSES, knn_k=k, knn_t=0.07)
    scores = m.knn_predict(*flashmatch.topk(queries, prototypes, k), labels, CLASSES)
    ranks = m.class_ranks(scores, query_labels)
    voted = (scores > 0).sum(1, keepdim=True)
    ours = scores.argsort(1, descending=True)
    within = torch.arange(CLASSES) < voted
    assert torch.equal(ours[within], order[within])
    top1 = (order[:, 0] == query_labels).double().mean()
    assert 0.3 < float(top1) < 1
    assert float(m.knn_accuracy(scores, query_labels)["top1"]) == float(top1)
    assert torch.equal(ranks == 0, order[:, 0] == query_labels)


@pytest.mark.parametrize("weights", ["uniform", "distance"])
def test_sklearn_probabilities(data: tuple[Tensor, Tensor, Tensor, Tensor], weights: str) -> None:
    queries, query_labels, prototypes, labels = data
    peer = KNeighborsClassifier(K, weights=weights, algorithm="brute").fit(prototypes, labels)
    expected = torch.from_numpy(peer.predict_proba(queries))
    ours = m.knn_predict(
        *flashmatch.topk(queries, prototypes, K, metric="l2"),
        labels,
        CLASSES,
        weights="uniform" if weights == "uniform" else lambda scores: (-scores).rsqrt(),
    )
    tolerance = 1e-12 if weights == "uniform" else 1e-5
    torch.testing.assert_close(
        ours / ours.sum(1, keepdim=True), expected.double(), rtol=tolerance, atol=1e-12
    )
    accuracy = m.knn_accuracy(ours, query_labels, topk=(1,))["top1"]
    assert float(accuracy) == pytest.approx(peer.score(queries, query_labels))


def test_pytorch_metric_learning(data: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    queries, query_labels, prototypes, labels = data
    names = ("precision_at_1", "r_precision", "mean_average_precision", "mean_reciprocal_rank")
    calculator = pml.AccuracyCalculator(
        include=names, k=PROTOTYPES, device=torch.device("cpu"), knn_func=_knn
    )
    expected = calculator.get_accuracy(queries, query_labels, prototypes, labels)
    metrics = m.RetrievalMetrics(ks=(1, PROTOTYPES), r_precision="exact")
    indices = flashmatch.topk(queries, prototypes, PROTOTYPES).indices
    metrics.update(m.relevance(indices, query_labels, labels))
    found = metrics.compute()
    ours = ("precision@1", "R_precision", f"mAP@{PROTOTYPES}", f"MRR@{PROTOTYPES}")
    for theirs, name in zip(names, ours, strict=True):
        assert found[name] == pytest.approx(expected[theirs], rel=1e-6), name


def test_pytorch_metric_learning_truncates(data: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    queries, query_labels, prototypes, labels = data
    calculator = pml.AccuracyCalculator(
        include=("r_precision",), k=7, device=torch.device("cpu"), knn_func=_knn
    )
    expected = calculator.get_accuracy(queries, query_labels, prototypes, labels)["r_precision"]
    relevant, total, _ = m.relevance(
        flashmatch.topk(queries, prototypes, 7).indices, query_labels, labels
    )
    assert (total > 7).any()
    ours = m.r_precision(relevant, total, truncate=True).mean()
    assert float(ours) == pytest.approx(expected)


def test_sentence_transformers_divides_by_the_attainable(
    data: tuple[Tensor, Tensor, Tensor, Tensor],
) -> None:
    queries, query_labels, prototypes, labels = data
    hits = flashmatch.topk(queries, prototypes, K)
    targets = [row.nonzero()[:, 0].tolist() for row in query_labels[:, None] == labels]
    evaluator = InformationRetrievalEvaluator(
        {str(q): "" for q in range(QUERIES)},
        {str(p): "" for p in range(PROTOTYPES)},
        {str(q): {str(p) for p in each} for q, each in enumerate(targets)},
        **{f"{n}_at_k": [5, K] for n in ("map", "mrr", "accuracy", "precision_recall")},
    )
    results = [
        [{"corpus_id": str(int(i)), "score": float(s)} for s, i in zip(*pair, strict=True)]
        for pair in zip(*hits, strict=True)
    ]
    expected = evaluator.compute_metrics(results)
    metrics = m.RetrievalMetrics(ks=(5, K), ap_divisor="attainable")
    metrics.update(m.relevance_to_targets(hits.indices, targets))
    found = metrics.compute()
    for ours, theirs in (
        ("hit_rate", "accuracy"),
        ("precision", "precision"),
        ("recall", "recall"),
        ("mAP", "map"),
        ("MRR", "mrr"),
    ):
        for k in (5, K):
            assert found[f"{ours}@{k}"] == pytest.approx(expected[f"{theirs}@k"][k]), ours


def _knn(
    queries: Tensor, k: int, prototypes: Tensor, ref_includes_query: bool
) -> tuple[Tensor, Tensor]:
    assert not ref_includes_query
    scores, indices = flashmatch.topk(queries, prototypes, k)
    return scores, indices
