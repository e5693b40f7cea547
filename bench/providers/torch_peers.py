"""Searches of torch alone, as users write them, on any device."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from measuring.shapes import Shape

from .provider import Provider, Search, Unsupported, require_room

ORIGINAL = "torch cosine_similarity+sort"
CHUNK_BYTES = {"cpu": 32 * 2**20, "cuda": 512 * 2**20}  # of scores: what serves each best


def matmul_topk(prototypes: Tensor, shape: Shape) -> Search:
    require_room(shape.Q * shape.M * shape.torch_dtype.itemsize, "the score matrix", prototypes)

    def search(queries: Tensor) -> tuple[Tensor, Tensor]:
        return _scores(queries, prototypes, shape.metric).topk(shape.k)

    return search


def matmul_topk_chunked(prototypes: Tensor, shape: Shape) -> Search:
    """What a careful user writes once the score matrix no longer fits."""
    row_bytes = min(shape.Q, 4096) * shape.torch_dtype.itemsize
    rows = max(1, CHUNK_BYTES[prototypes.device.type] // row_bytes)
    if rows >= shape.M and shape.Q <= 4096:
        raise Unsupported("one chunk holds everything")

    def search(queries: Tensor) -> tuple[Tensor, Tensor]:
        parts = [_chunked(part, prototypes, shape, rows) for part in queries.split(4096)]
        return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])

    return search


def _chunked(queries: Tensor, prototypes: Tensor, shape: Shape, rows: int):
    scores = queries.new_empty(len(queries), 0)
    indices = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
    for start in range(0, len(prototypes), rows):
        chunk = _scores(queries, prototypes[start : start + rows], shape.metric)
        best = chunk.topk(min(shape.k, chunk.shape[1]))
        scores = torch.cat([scores, best.values], 1)
        indices = torch.cat([indices, best.indices + start], 1)
        scores, places = scores.topk(min(shape.k, scores.shape[1]))
        indices = indices.gather(1, places)
    return scores, indices


def normalised_before(prepare: Callable[[Tensor, Shape], Search], prototypes: Tensor, shape: Shape):
    """The cosines of a user whose prototypes stay are products with unit vectors kept."""
    if shape.metric != "cosine":
        raise Unsupported("only cosine has norms to divide by ahead of time")
    search = prepare(F.normalize(prototypes, eps=1e-8), replace(shape, metric="dot"))
    return lambda queries: search(F.normalize(queries, eps=1e-8))


def _scores(queries: Tensor, prototypes: Tensor, metric: str) -> Tensor:
    if metric == "cosine":
        return F.normalize(queries, eps=1e-8) @ F.normalize(prototypes, eps=1e-8).T
    if metric == "dot":
        return queries @ prototypes.T
    squares = prototypes.square().sum(1)
    return torch.addmm(-squares, queries, prototypes.T, alpha=2) - queries.square().sum(1)[:, None]


@contextmanager
def float32_precision(precision: str) -> Iterator[None]:
    """Of products: "high" is TF32, "highest" fp32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _broadcast_sort(prototypes: Tensor, shape: Shape) -> Search:
    """mmpretrain's formula: every pair side by side, then a full sort."""
    if shape.metric != "cosine":
        raise Unsupported("the original computes cosine")
    require_room(shape.Q * shape.M * shape.C * 12, "the broadcast pairs", prototypes)

    def search(queries: Tensor) -> tuple[Tensor, Tensor]:
        scores = torch.cosine_similarity(queries[:, None], prototypes[None], dim=-1)
        best = scores.sort(dim=-1, descending=True)
        return best.values[:, : shape.k], best.indices[:, : shape.k]

    return search


TORCH_PEERS = (
    Provider("torch matmul+topk", matmul_topk),
    Provider("torch matmul+topk, normalised before", partial(normalised_before, matmul_topk)),
    Provider("torch matmul+topk, chunked", matmul_topk_chunked),
    Provider(
        "torch matmul+topk, chunked, normalised before",
        partial(normalised_before, matmul_topk_chunked),
    ),
    Provider(ORIGINAL, _broadcast_sort),
)
