"""Scores of queries against prototypes: three named similarities, or any callable.

The named ones never hold (N, M, C). All of their scores are computed in fp32 (fp64 for fp64
vectors), block by block; the k best come from ``flashmatch.topk``, which is exact.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from ..kernels import Matches, topk
from ..kernels.contract.metrics import COSINE_EPS
from ..kernels.contract.naming import named

Similarity = str | Callable[[Tensor, Tensor], Tensor]

METRICS = {"cosine_similarity": "cosine", "dot_product": "dot", "euclidean_distance": "l2"}
BLOCK_ELEMENTS = 2**24  # of prototypes normalised at a time: 64 MiB in fp32


def require_similarity(value: object) -> None:
    if callable(value) or (isinstance(value, str) and value in METRICS):
        return
    raise ValueError(
        f"similarity_fn must be one of {', '.join(map(repr, METRICS))} or a callable "
        f"f(queries (N, C), prototypes (M, C)) -> (N, M); got {value!r}"
    )


def match(
    features: Tensor,
    prototypes: Tensor,
    k: int | None,
    similarity: Similarity,
    chunk_rows: int | None = None,
    search: Callable[..., Matches] = topk,
) -> dict[str, Tensor]:
    """What a retriever's ``matching`` gives: ``score``, ``pred_label`` and ``pred_score``.

    ``k`` None: ``score`` (N, M) of every prototype in the prototypes' order, and both others (N, M)
    best first. Otherwise all three are (N, k), k cut to M, best first, and both scores are one;
    ``search`` is ``flashmatch.topk``, or what gives the same, for the named similarities.

    Raises:
        ValueError: features that are not finite, or what is no similarity.
    """
    require_similarity(similarity)
    if k is None:
        if not features.isfinite().all():
            raise ValueError("features must be finite; got NaN or infinity")
        score = all_scores(features, prototypes, similarity, chunk_rows)
        pred_score, pred_label = sort_scores(score)
        return {"score": score, "pred_label": pred_label, "pred_score": pred_score}
    k = min(k, len(prototypes))
    with named(queries="features", prototypes="prototype"):
        if callable(similarity):
            score, pred_label = _best_called(features, prototypes, k, similarity, chunk_rows)
        else:
            score, pred_label = search(features, prototypes, k, metric=METRICS[similarity])
    if similarity == "euclidean_distance":
        apart = score < 0  # the root has no slope at 0, where cdist takes 0 for one
        score = torch.where(apart, -(-score).where(apart, 1).sqrt(), 0)
    return {"score": score, "pred_label": pred_label, "pred_score": score}


def all_scores(
    queries: Tensor, prototypes: Tensor, similarity: Similarity, chunk_rows: int | None = None
) -> Tensor:
    """(N, C), (M, C) -> (N, M), larger is better, differentiable. Holds O(N M) besides a block.

    ``chunk_rows`` concerns callables only: None calls them once on everything.
    """
    if callable(similarity):
        blocks = list(_called(queries, prototypes, similarity, chunk_rows))
        return blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=1)
    dtype = torch.promote_types(queries.dtype, prototypes.dtype)
    dtype = torch.promote_types(dtype, torch.float32)  # half precision would tie half the gallery
    rows = max(1, BLOCK_ELEMENTS // max(1, prototypes.shape[1]))
    scores = queries.new_empty((len(queries), len(prototypes)), dtype=dtype)
    with torch.autocast(queries.device.type, enabled=False):
        queries = queries.to(dtype)
        for start in range(0, len(prototypes), rows):
            block = prototypes[start : start + rows].to(dtype)
            scores[:, start : start + rows] = _NAMED[similarity](queries, block)
    return scores


def sort_scores(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Scores (N, M), score descending then index ascending, and their indices."""
    values, indices = scores.sort(dim=-1, descending=True, stable=True)
    return values, indices


def _cosine(queries: Tensor, prototypes: Tensor) -> Tensor:
    return F.normalize(queries, eps=COSINE_EPS) @ F.normalize(prototypes, eps=COSINE_EPS).T


def _dot(queries: Tensor, prototypes: Tensor) -> Tensor:
    return queries @ prototypes.T


def _negated_distance(queries: Tensor, prototypes: Tensor) -> Tensor:
    # The matmul form of cdist loses half the digits where vectors are close.
    return 0 - torch.cdist(queries, prototypes, compute_mode="donot_use_mm_for_euclid_dist")


_NAMED = {
    "cosine_similarity": _cosine,
    "dot_product": _dot,
    "euclidean_distance": _negated_distance,
}


def _called(
    queries: Tensor,
    prototypes: Tensor,
    similarity: Callable[[Tensor, Tensor], Tensor],
    chunk_rows: int | None,
) -> Iterator[Tensor]:
    """``similarity`` on one chunk of prototypes after the other, each result (N, rows of it)."""
    rows = max(1, chunk_rows or len(prototypes))
    for start in range(0, max(1, len(prototypes)), rows):
        chunk = prototypes[start : start + rows]
        scores = similarity(queries, chunk)
        _require_scores(scores, (len(queries), len(chunk)))
        if start == 0 and len(chunk) < len(prototypes):
            _require_separable(queries, chunk, similarity, scores)
        yield scores


def _best_called(
    queries: Tensor,
    prototypes: Tensor,
    k: int,
    similarity: Callable[[Tensor, Tensor], Tensor],
    chunk_rows: int | None,
) -> tuple[Tensor, Tensor]:
    """(N, k) scores and indices: score descending, then index ascending."""
    best = torch.empty(len(queries), 0, device=queries.device, dtype=queries.dtype)
    indices = torch.empty(len(queries), 0, device=queries.device, dtype=torch.int64)
    start = 0
    for scores in _called(queries, prototypes, similarity, chunk_rows):
        stop = start + scores.shape[1]
        numbers = torch.arange(start, stop, device=scores.device).expand(len(queries), -1)
        # What is kept has the lower indices and comes first, so a stable sort settles ties.
        best, order = sort_scores(torch.cat([best.to(scores.dtype), scores], dim=1))
        best, order = best[:, :k], order[:, :k]
        indices = torch.cat([indices, numbers], dim=1).gather(1, order)
        start = stop
    return best, indices


def _require_scores(scores: object, shape: tuple[int, int]) -> None:
    if not isinstance(scores, Tensor) or scores.shape != shape:
        got = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise ValueError(f"similarity_fn must return a tensor of shape {shape}; got {got}")
    if scores.isnan().any():
        raise ValueError("similarity_fn must not return NaN, which has no place in an order")


def _require_separable(
    queries: Tensor, chunk: Tensor, similarity: Callable[[Tensor, Tensor], Tensor], scores: Tensor
) -> None:
    """A softmax over the prototypes, say, would give every chunk scores of its own."""
    probe = chunk[: (len(chunk) + 1) // 2] if len(chunk) > 1 else chunk[[0, 0]]
    again = similarity(queries, probe)
    _require_scores(again, (len(queries), len(probe)))
    shared = min(len(probe), len(chunk))
    if not torch.allclose(again[:, :shared], scores[:, :shared], rtol=1e-3, atol=1e-4):
        raise ValueError(
            "similarity_chunk_rows needs a similarity_fn whose scores depend on their own pair "
            "alone; the first prototypes' scores change with what else is in the call"
        )
