"""semantic_search and paraphrase_mining beside sentence_transformers.util's own."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from flashmatch import PrototypeBank, topk
from flashmatch.adapters import sentence_transformers as ours

pytest.importorskip("sentence_transformers")

from sentence_transformers import util

FUNCTIONS = {
    "cosine": util.cos_sim,
    "dot": util.dot_score,
    "euclidean": lambda a, b: util.euclidean_sim(a.float(), b.float()),  # cdist has no halves
}
OURS = {"cosine": util.cos_sim, "dot": util.dot_score, "euclidean": util.euclidean_sim}
BANKS = {"cosine": "cosine", "dot": "dot", "euclidean": "l2"}
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
APART = 1e-4  # scores that differ by less may swap places where fp32 decides


def draw(rows: int, channels: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(rows, channels, generator=torch.Generator().manual_seed(seed)).to(dtype)


def all_scores(queries: Tensor, corpus: Tensor, metric: str) -> Tensor:
    if metric == "euclidean":
        return -torch.cdist(queries.double(), corpus.double())
    if metric == "cosine":
        queries, corpus = (torch.nn.functional.normalize(x.double()) for x in (queries, corpus))
    return queries.double() @ corpus.double().T


class Model:
    """Encodes a sentence as the counts of its letters; compares as a SentenceTransformer does."""

    def __init__(self, similarity_fn_name: str = "cosine") -> None:
        self.similarity_fn_name = similarity_fn_name

    def similarity(self, embeddings1: Tensor, embeddings2: Tensor) -> Tensor:
        raise NotImplementedError

    def encode(self, sentences: list[str], *, convert_to_tensor: bool, **settings) -> Tensor:
        self.settings = settings
        assert convert_to_tensor
        return torch.tensor([[float(s.count(c)) for c in "abcdefg "] for s in sentences])


def are_apart(scores: Tensor) -> bool:
    return bool((scores.sort(-1).values.diff() > APART).all())


def assert_same(found: list, expected: list) -> None:
    assert [[match["corpus_id"] for match in matches] for matches in found] == [
        [match["corpus_id"] for match in matches] for matches in expected
    ]
    for matches, wanted in zip(found, expected, strict=True):
        scores, right = ([match["score"] for match in ms] for ms in (matches, wanted))
        assert scores == pytest.approx(right, rel=2e-6, abs=2e-6)


@pytest.mark.hypothesis
@given(
    st.integers(0, 6),
    st.integers(0, 40),
    st.integers(4, 24),
    st.integers(0, 50),
    st.sampled_from(DTYPES),
    st.sampled_from(sorted(FUNCTIONS)),
    st.integers(0, 10**6),
    st.tuples(st.integers(1, 7), st.integers(1, 50)),
)
def test_as_semantic_search(
    queries: int,
    rows: int,
    channels: int,
    top_k: int,
    dtype: torch.dtype,
    metric: str,
    seed: int,
    chunks: tuple[int, int],
) -> None:
    query, corpus = draw(queries, channels, seed, dtype), draw(rows, channels, seed + 1, dtype)
    assume(are_apart(all_scores(query, corpus, metric)))
    arguments = query, corpus, *chunks, top_k
    expected = util.semantic_search(*arguments, score_function=FUNCTIONS[metric])
    for function in (metric, OURS[metric], Model(metric).similarity):
        assert_same(ours.semantic_search(query, corpus, *chunks, top_k, function), expected)
    bank = PrototypeBank(corpus, metric=BANKS[metric])
    found = ours.semantic_search(query, bank, top_k=top_k, score_function=metric)
    assert_same(found, expected)
    if metric != "euclidean":  # a bank's are roots of its squares, which were rounded before
        assert found == ours.semantic_search(query, corpus, top_k=top_k, score_function=metric)


def test_defaults_are_those_of_the_original() -> None:
    query, corpus = draw(5, 16, 0), draw(300, 16, 1)
    found = ours.semantic_search(query, corpus)
    assert_same(found, util.semantic_search(query, corpus))
    assert [len(matches) for matches in found] == [10] * 5
    assert {type(value) for match in found[0] for value in match.values()} == {int, float}


@pytest.mark.parametrize(
    "form",
    [
        lambda x: x,
        lambda x: x.numpy(),
        lambda x: x.double().numpy(),
        lambda x: x.tolist(),
        lambda x: list(x),
        lambda x: list(x.numpy()),
        lambda x: np.broadcast_to(x.numpy(), x.shape),  # not writable
        lambda x: x.requires_grad_(),
    ],
)
@pytest.mark.filterwarnings("error")
def test_lists_arrays_and_tensors(form) -> None:
    query, corpus = draw(3, 8, 2), draw(30, 8, 3)
    expected = util.semantic_search(query.clone(), corpus.clone(), top_k=4)
    assert_same(ours.semantic_search(form(query.clone()), form(corpus.clone()), top_k=4), expected)


def test_one_row_alone_and_nothing_at_all() -> None:
    query, corpus = draw(1, 8, 4), draw(9, 8, 5)
    assert_same(ours.semantic_search(query[0], corpus), util.semantic_search(query[0], corpus))
    assert_same(ours.semantic_search(query, corpus[0]), util.semantic_search(query, corpus[0]))
    assert ours.semantic_search(query, []) == util.semantic_search(query, []) == [[]]
    assert ours.semantic_search([], corpus) == []


def test_whole_numbers_are_exact() -> None:
    query, corpus = [[1, 2]], torch.tensor([[2, 2], [100, 100]], dtype=torch.int8)
    found = ours.semantic_search(query, corpus, score_function="dot")  # int8 itself would overflow
    assert found == [[{"corpus_id": 1, "score": 300.0}, {"corpus_id": 0, "score": 6.0}]]


def test_ties_come_lowest_row_first() -> None:
    corpus = torch.ones(50, 4)
    (matches,) = ours.semantic_search(torch.ones(4), corpus, corpus_chunk_size=7, top_k=5)
    assert [match["corpus_id"] for match in matches] == [0, 1, 2, 3, 4]


def test_squared_distances() -> None:
    query, corpus = draw(4, 8, 6), draw(20, 8, 7)
    scores, indices = topk(query, corpus, 3, metric="l2")
    found = ours.semantic_search(query, corpus, top_k=3, score_function="l2")
    assert [[m["corpus_id"] for m in matches] for matches in found] == indices.tolist()
    assert [[m["score"] for m in matches] for matches in found] == scores.tolist()


def test_a_bank_gives_its_own_ids() -> None:
    corpus = draw(30, 8, 8)
    bank = PrototypeBank(corpus, ids=torch.arange(30) + 1000)
    bank.remove([1000, 1007])
    rows = [row for row in range(30) if row not in (0, 7)]
    found = ours.semantic_search(corpus[rows], bank, top_k=1)
    assert [matches[0]["corpus_id"] for matches in found] == [row + 1000 for row in rows]
    with pytest.raises(ValueError, match="must be the metric of the bank, 'cosine'; got 'dot'"):
        ours.semantic_search(corpus, bank, score_function=util.dot_score)


def cos_sim(a: Tensor, b: Tensor) -> Tensor:
    """A name of the package's, from elsewhere."""
    return a @ b.T


@pytest.mark.parametrize(
    "function",
    [
        *(util.manhattan_sim, cos_sim, "cos_sim", None, ["cosine"], util.pairwise_cos_sim),
        lambda a, b: Model("cosine").similarity(a, b),
        Model("manhattan").similarity,
        Model("cosine").encode,
    ],
)
def test_other_score_functions_are_refused(function: object) -> None:
    with pytest.raises(ValueError, match="score_function must be cos_sim, dot_score or euclidean"):
        ours.semantic_search([[1.0]], [[1.0]], score_function=function)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"top_k": -1}, ValueError, "top_k must be at least 0; got -1"),
        ({"top_k": 1.5}, TypeError, "top_k must be an int; got float"),
        (
            {"corpus_embeddings": torch.eye(3).to_sparse()},
            TypeError,
            "corpus_embeddings must be a dense",
        ),
        ({"corpus_embeddings": torch.ones(1, 2, 3)}, ValueError, r"corpus_.*; got \(1, 2, 3\)"),
        ({"corpus_embeddings": torch.ones(3, 4)}, ValueError, "equally many channels; got 3 and 4"),
        ({"query_embeddings": [["a"]]}, TypeError, "query_embeddings must be a tensor, an array"),
        ({"query_embeddings": torch.ones(1, 3) * 1j}, TypeError, "query_embeddings must be real"),
        ({"query_embeddings": [[1.0, 2.0, np.nan]]}, ValueError, "^query_embeddings must be f"),
    ],
)
def test_what_cannot_be_searched_is_refused(change: dict, error: type, message: str) -> None:
    arguments = {"query_embeddings": torch.eye(3), "corpus_embeddings": torch.eye(3)}
    with pytest.raises(error, match=message):
        ours.semantic_search(**{**arguments, **change})


@pytest.mark.hypothesis
@given(
    st.integers(0, 30),
    st.integers(4, 16),
    st.sampled_from(sorted(FUNCTIONS)),
    st.integers(1, 40),
    st.sampled_from([1, 3, 20, 10**5]),
    st.integers(1, 31),
    st.integers(0, 10**6),
)
def test_as_paraphrase_mining(
    rows: int, channels: int, metric: str, top_k: int, most: int, chunk: int, seed: int
) -> None:
    embeddings = draw(rows, channels, seed)
    scores = all_scores(embeddings, embeddings, metric)
    upper = scores[torch.triu_indices(rows, rows, 1).unbind()]
    assume(are_apart(scores) and (upper.sort().values.diff() > 1e-6).all())
    settings = {"query_chunk_size": chunk, "max_pairs": most, "top_k": top_k}
    expected = util.paraphrase_mining_embeddings(
        embeddings, score_function=FUNCTIONS[metric], **settings
    )
    found = ours.paraphrase_mining_embeddings(embeddings, score_function=metric, **settings)
    assert [pair[1:] for pair in found] == [pair[1:] for pair in expected]
    assert [pair[0] for pair in found] == pytest.approx([p[0] for p in expected], abs=1e-5)


@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_pairs_of_duplicates_come_in_order(chunk: int) -> None:
    pairs = ours.paraphrase_mining_embeddings(torch.ones(5, 3), chunk, max_pairs=6, top_k=4)
    assert pairs == [[1.0, i, j] for i, j in [(0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (1, 3)]]


def test_sentences_are_encoded_and_mined() -> None:
    model, original = Model(), Model()
    sentences = ["a cab", "a bad cab", "feed", "fed egg", "a cad"]
    arguments = {"top_k": 3, "batch_size": 7, "prompt": "p", "truncate_dim": 5}
    found = ours.paraphrase_mining(model, sentences, **arguments)
    expected = util.paraphrase_mining(original, sentences, **arguments)  # type: ignore[arg-type]
    assert [pair[1:] for pair in found] == [pair[1:] for pair in expected]
    assert model.settings == original.settings


@pytest.mark.parametrize("name", ["query_chunk_size", "max_pairs", "top_k"])
def test_mining_refuses_nothing_of_something(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1; got 0"):
        ours.paraphrase_mining_embeddings(torch.eye(3), **{name: 0})
