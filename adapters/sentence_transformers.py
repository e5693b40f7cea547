"""``semantic_search`` and ``paraphrase_mining`` of sentence_transformers.util, exactly."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..kernels import Matches, PrototypeBank, topk
from ..kernels.contract.arguments import require_int
from ..kernels.contract.metrics import METRICS
from ..kernels.contract.naming import named
from ..retriever.metrics.labels import ranks_of_others
from ._arrays import as_vectors
from ._nearest import NearestRows

ScoreFunction = str | Callable[[Tensor, Tensor], Tensor]

FUNCTIONS = {
    "cos_sim": "cosine",
    "pytorch_cos_sim": "cosine",
    "dot_score": "dot",
    "euclidean_sim": "euclidean",
}
"""What sentence_transformers.util's functions compute, by their names."""
MODELS = ("cosine", "dot", "euclidean")
"""And its models, by ``similarity_fn_name``."""
CHOICES = (*METRICS, "euclidean")


def semantic_search(
    query_embeddings: object,
    corpus_embeddings: object,
    query_chunk_size: int = 100,
    corpus_chunk_size: int = 500000,
    top_k: int = 10,
    score_function: ScoreFunction = "cosine",
) -> list[list[dict[str, int | float]]]:
    """The top_k entries of the corpus for each query, as sentence_transformers.util gives them.

    Args:
        query_embeddings: (Q, C) tensor, array or list of rows; or one row (C,).
        corpus_embeddings: (M, C) likewise; or a ``PrototypeBank``, prepared once for many calls.
        query_chunk_size, corpus_chunk_size: without effect: memory is bounded anyway.
        top_k: entries per query; all there are where the corpus is smaller.
        score_function: ``cos_sim``, ``dot_score`` or ``euclidean_sim`` of
            sentence_transformers.util, or the ``similarity`` of a model that uses one of them;
            ``"cosine"``, ``"dot"``, ``"euclidean"`` (minus the distance) or ``"l2"`` (minus its
            square). A bank must be of the same metric; ``"l2"`` for ``"euclidean"``.

    Returns:
        For each query a list of ``{"corpus_id": int, "score": float}``: score descending, then row
        ascending. The id is the corpus's row, or the bank's id of it.

    Raises:
        TypeError, ValueError: naming the argument. Other score functions and sparse embeddings are
            for sentence_transformers.util.semantic_search itself.
    """
    metric = metric_of(score_function)
    queries = as_vectors("query_embeddings", query_embeddings)
    top_k = require_int("top_k", top_k, least=0)
    bank = corpus_embeddings if isinstance(corpus_embeddings, PrototypeBank) else None
    if bank is not None and bank.metric != ("l2" if metric == "euclidean" else metric):
        raise ValueError(
            f"score_function must be the metric of the bank, {bank.metric!r}; got {metric!r}"
        )
    corpus = as_vectors("corpus_embeddings", corpus_embeddings) if bank is None else bank
    k = min(top_k, len(corpus))
    if len(queries) == 0 or k == 0:
        return [[] for _ in range(len(queries))]
    with torch.no_grad(), named(queries="query_embeddings", prototypes="corpus_embeddings"):
        if isinstance(corpus, PrototypeBank):
            scores, rows = corpus.topk(queries, k)
            ids = corpus.ids[rows.to(corpus.device)]
            scores = 0 - (0 - scores).sqrt() if metric == "euclidean" else scores
        elif metric == "euclidean":
            scores, ids = _Distances(corpus).topk(queries.to(corpus.device), k)
        else:
            scores, ids = topk(queries.to(corpus.device), corpus, k, metric=metric)
    return [
        [{"corpus_id": entry, "score": score} for entry, score in zip(*found, strict=True)]
        for found in zip(ids.tolist(), scores.tolist(), strict=True)
    ]


def paraphrase_mining(
    model: Any,
    sentences: list[str],
    show_progress_bar: bool = False,
    batch_size: int = 32,
    query_chunk_size: int = 5000,
    corpus_chunk_size: int = 100000,
    max_pairs: int = 500000,
    top_k: int = 100,
    score_function: ScoreFunction = "cosine",
    truncate_dim: int | None = None,
    prompt_name: str | None = None,
    prompt: str | None = None,
) -> list[list[float | int]]:
    """``paraphrase_mining_embeddings`` of what ``model.encode`` makes of the sentences."""
    embeddings = model.encode(
        sentences,
        show_progress_bar=show_progress_bar,
        batch_size=batch_size,
        convert_to_tensor=True,
        truncate_dim=truncate_dim,
        prompt_name=prompt_name,
        prompt=prompt,
    )
    return paraphrase_mining_embeddings(
        embeddings, query_chunk_size, corpus_chunk_size, max_pairs, top_k, score_function
    )


def paraphrase_mining_embeddings(
    embeddings: object,
    query_chunk_size: int = 5000,
    corpus_chunk_size: int = 100000,
    max_pairs: int = 500000,
    top_k: int = 100,
    score_function: ScoreFunction = "cosine",
) -> list[list[float | int]]:
    """The best pairs among all that have one of the two in the other's top_k.

    Args:
        embeddings: (M, C) tensor, array or list of rows.
        query_chunk_size: rows searched at a time: beside the bank, memory is that of
            ``max_pairs + query_chunk_size * top_k`` pairs. Changes nothing else.
        corpus_chunk_size: without effect.
        max_pairs: so many pairs are returned at most.
        top_k: neighbours of each row, itself not counted.
        score_function: as of ``semantic_search``.

    Returns:
        ``[score, i, j]`` with i < j, each pair once: score descending, then i, then j.

    Raises:
        TypeError, ValueError: naming the argument.
    """
    metric = metric_of(score_function)
    rows = as_vectors("embeddings", embeddings)
    query_chunk_size = require_int("query_chunk_size", query_chunk_size, least=1)
    max_pairs = require_int("max_pairs", max_pairs, least=1)
    top_k = require_int("top_k", top_k, least=1)
    count = len(rows)
    if count < 2:
        return []
    with torch.no_grad(), named(queries="embeddings", prototypes="embeddings"):
        if metric == "euclidean":
            bank = _Distances(rows)
        else:
            bank = PrototypeBank(rows, metric=metric, progress=False)
    best, pairs = torch.empty(0, device=rows.device), torch.empty(0, device=rows.device).long()
    for first in range(0, count, query_chunk_size):
        chunk = rows[first : first + query_chunk_size]
        found = bank.topk(chunk, min(top_k + 1, count))
        own = torch.arange(first, first + len(chunk), device=rows.device)
        kept = ranks_of_others(found.indices, own)
        own, others = own[:, None], found.indices.gather(1, kept)
        fresh = torch.minimum(own, others) * count + torch.maximum(own, others)
        best = torch.cat([best, found.scores.gather(1, kept).flatten()])
        best, pairs = _best_pairs(best, torch.cat([pairs, fresh.flatten()]), max_pairs)
    low, high = pairs.div(count, rounding_mode="floor"), pairs % count
    table = zip(best.tolist(), low.tolist(), high.tolist(), strict=True)
    return [[score, i, j] for score, i, j in table]


def metric_of(score_function: ScoreFunction) -> str:
    """What a score function computes, one of ``CHOICES``.

    Raises:
        ValueError: it is neither of them, nor a function of ``FUNCTIONS``, nor such a model's.
    """
    if isinstance(score_function, str) and score_function in CHOICES:
        return str(score_function)
    of_model = getattr(getattr(score_function, "__self__", None), "similarity_fn_name", None)
    if of_model in MODELS and getattr(score_function, "__name__", "") == "similarity":
        return of_model
    package = (getattr(score_function, "__module__", None) or "").partition(".")[0]
    name = getattr(score_function, "__name__", "")
    if package == "sentence_transformers" and name in FUNCTIONS:
        return FUNCTIONS[name]
    raise ValueError(
        "score_function must be cos_sim, dot_score or euclidean_sim of sentence_transformers.util, "
        f"a model's similarity by one of them, or one of {', '.join(map(repr, CHOICES))}; "
        f"got {score_function!r}. "
        "sentence_transformers.util.semantic_search takes other functions"
    )


class _Distances:
    """A corpus (M, C) searched by minus the Euclidean distance."""

    def __init__(self, corpus: Tensor) -> None:
        with named(X="prototypes"):
            self._rows = NearestRows(_at_least_single(corpus), "euclidean")

    def topk(self, queries: Tensor, k: int) -> Matches:
        with named(X="queries"):
            distances, indices = self._rows.search(_at_least_single(queries), k, torch.float32)
        return Matches(0 - distances, indices)


def _at_least_single(vectors: Tensor) -> Tensor:
    return vectors.to(torch.promote_types(vectors.dtype, torch.float32))


def _best_pairs(scores: Tensor, pairs: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The best of the pairs, each once: score descending, then pair ascending."""
    pairs, order = pairs.sort(stable=True)
    is_new = torch.ones_like(pairs, dtype=torch.bool)
    is_new[1:] = pairs[1:] != pairs[:-1]
    pairs, scores = pairs[is_new], scores[order][is_new]
    scores, order = scores.sort(descending=True, stable=True)
    return scores[:most], pairs[order[:most]]
