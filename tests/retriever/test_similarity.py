"""Scores and order against the original's formula, and callables whole or in chunks."""

import pytest
import torch
from allocations import LargestResult
from retrieved import SIMILARITIES, assert_same_order, encoder, original_scores, retriever_of
from torch import Tensor


def dense(queries: Tensor, prototypes: Tensor, name: str) -> Tensor:
    if name == "cosine_similarity":
        return original_scores(queries, prototypes)
    if name == "dot_product":
        return (queries.unsqueeze(1) * prototypes.unsqueeze(0)).sum(-1)
    return -(queries.unsqueeze(1) - prototypes.unsqueeze(0)).norm(dim=-1)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 2), (13, 101, 37), (8, 400, 128)], ids=str)
def test_topk_all_gives_the_originals_scores_and_order(shape) -> None:
    n, m, c = shape
    queries, prototypes = torch.randn(n, c), torch.randn(m, c)
    expected = original_scores(queries, prototypes)
    result = retriever_of(prototypes).matching(queries)
    assert list(result) == ["score", "pred_label", "pred_score"]
    torch.testing.assert_close(result["score"], expected, rtol=0, atol=2e-7)
    assert_same_order(result["pred_label"], expected, 4e-7)
    assert torch.equal(result["pred_score"], result["score"].gather(1, result["pred_label"]))
    assert (result["pred_score"].diff(dim=1) <= 0).all()


@pytest.mark.parametrize("name", SIMILARITIES)
@pytest.mark.parametrize("k", [1, 4, 31, 99])
def test_topk_k_is_aligned_sorted_and_agrees_with_all(name: str, k: int, vectors: Tensor) -> None:
    queries = torch.randn(6, 7)
    result = retriever_of(vectors, similarity_fn=name, topk=k).matching(queries)
    expected = dense(queries, vectors, name)
    assert {value.shape for value in result.values()} == {(6, min(k, 31))}
    assert result["pred_label"].dtype == torch.int64
    assert_same_order(result["pred_label"], expected, 1e-5)
    torch.testing.assert_close(
        result["pred_score"], expected.gather(1, result["pred_label"]), rtol=1e-5, atol=1e-6
    )
    assert torch.equal(result["score"], result["pred_score"])


@pytest.mark.parametrize("name", SIMILARITIES)
def test_named_similarities_match_their_definition(name: str, vectors: Tensor) -> None:
    queries = torch.randn(6, 7)
    retriever = retriever_of(vectors, similarity_fn=name)
    expected = dense(queries.double(), vectors.double(), name).float()
    torch.testing.assert_close(retriever.matching(queries)["score"], expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        retriever.similarity_fn(queries, vectors), expected, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("topk", [-1, 5])
def test_ties_come_in_ascending_order(topk: int) -> None:
    prototypes = torch.ones(9, 4)
    result = retriever_of(prototypes, topk=topk).matching(torch.ones(1, 4))
    assert result["pred_label"][0].tolist() == list(range(9 if topk == -1 else 5))


def test_zero_and_tiny_vectors_score_as_torch_clamps_them() -> None:
    prototypes = torch.stack([torch.zeros(4), torch.full((4,), 1e-10), torch.ones(4)])
    queries = torch.stack([torch.ones(4), torch.zeros(4)])
    score = retriever_of(prototypes).matching(queries)["score"]
    torch.testing.assert_close(score, original_scores(queries, prototypes), rtol=0, atol=2e-7)


def test_topk_all_never_holds_queries_by_prototypes_by_channels() -> None:
    queries, prototypes = torch.randn(64, 256), torch.randn(3000, 256)
    # The sort's int64 indices are the largest.
    with LargestResult() as results:
        retriever_of(prototypes).matching(queries)
    assert results.largest <= 4 * max(64 * 3000 * 2, 3000 * 256)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features_are_scored_in_single(dtype: torch.dtype) -> None:
    queries, prototypes = torch.randn(3, 16).to(dtype), torch.randn(20, 16).to(dtype)
    retriever = retriever_of(prototypes, image_encoder=encoder(16).to(dtype))
    score = retriever.matching(queries)["score"]
    assert score.dtype == torch.float32
    torch.testing.assert_close(
        score, original_scores(queries.float(), prototypes.float()), rtol=0, atol=2e-7
    )


@pytest.mark.parametrize("topk", [-1, 3])
def test_no_queries_and_no_prototypes(topk: int) -> None:
    assert retriever_of(torch.randn(4, 7), topk=topk).predict(torch.randn(0, 3, 4, 4)) == []
    sample = retriever_of(torch.empty(0, 7), topk=topk).predict(torch.randn(1, 3, 4, 4))[0]
    assert len(sample.pred_label) == len(sample.pred_score) == 0


def negated_l1(queries: Tensor, prototypes: Tensor) -> Tensor:
    return -torch.cdist(queries, prototypes, p=1)


def softmax_over_prototypes(queries: Tensor, prototypes: Tensor) -> Tensor:
    return (queries @ prototypes.T).softmax(-1)


@pytest.mark.parametrize("topk", [-1, 6])
@pytest.mark.parametrize("rows", [None, 1, 7, 31, 100])
def test_callable_in_chunks_equals_callable_at_once(topk: int, rows: int | None, vectors) -> None:
    queries = torch.randn(4, 7)
    result = retriever_of(
        vectors, similarity_fn=negated_l1, topk=topk, similarity_chunk_rows=rows
    ).matching(queries)
    scores = negated_l1(queries, vectors)
    values, labels = scores.sort(descending=True, stable=True)
    k = 31 if topk == -1 else topk
    torch.testing.assert_close(result["pred_score"], values[:, :k])
    assert torch.equal(result["pred_label"], labels[:, :k])


def test_callable_in_chunks_keeps_ties_in_ascending_order() -> None:
    retriever = retriever_of(
        torch.ones(10, 7), similarity_fn=negated_l1, topk=4, similarity_chunk_rows=3
    )
    assert retriever.matching(torch.zeros(1, 7))["pred_label"].tolist() == [[0, 1, 2, 3]]


def test_callable_is_called_once_on_everything_unless_told_otherwise(vectors: Tensor) -> None:
    queries = torch.randn(4, 7)
    retriever = retriever_of(vectors, similarity_fn=softmax_over_prototypes)
    score = retriever.matching(queries)["score"]
    assert torch.equal(score, softmax_over_prototypes(queries, vectors))


@pytest.mark.parametrize("rows", [1, 8])
def test_callable_that_is_not_separable_is_refused_in_chunks(rows: int, vectors: Tensor) -> None:
    retriever = retriever_of(
        vectors, similarity_fn=softmax_over_prototypes, similarity_chunk_rows=rows
    )
    with pytest.raises(ValueError, match="similarity_chunk_rows needs a similarity_fn"):
        retriever.matching(torch.randn(4, 7))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda q, p: q.sum(-1), r"shape \(4, 31\); got \(4,\)"),
        (lambda q, p: None, "got NoneType"),
        (lambda q, p: q @ p.T * torch.nan, "must not return NaN"),
    ],
)
def test_callable_with_a_wrong_result_is_refused(function, message: str, vectors: Tensor) -> None:
    with pytest.raises(ValueError, match=message):
        retriever_of(vectors, similarity_fn=function).matching(torch.randn(4, 7))
