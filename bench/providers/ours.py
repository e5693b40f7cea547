"""Who is measured. A provider turns prototypes into a search; both are given by plain functions.

``prepare(prototypes, shape)`` is what may be done ahead of time and is not timed; the search it
returns is. A provider whose own interface takes raw vectors prepares nothing; where preparing is
much of the work, a second provider counts it. Scores come back larger-is-closer, indices as int64.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn import functional as F

import flashmatch
from measure import available_bytes
from shapes import Shape

Search = Callable[[Tensor], tuple[Tensor, Tensor]]
Product = Callable[[Tensor], Tensor]  # the arithmetic of a search, alone
CHUNK_BYTES = {"cpu": 32 * 2**20, "cuda": 512 * 2**20}  # of scores: what serves each best


class Unsupported(Exception):
    """This provider does not do this shape, by its own interface or for want of memory."""


@dataclass(frozen=True)
class Provider:
    name: str
    prepare: Callable[[Tensor, Shape], Search | Product]
    module: str = "torch"  # has to be importable
    distributions: tuple[str, ...] = ("torch",)  # the first installed one gives the version
    devices: tuple[str, ...] = ("cpu", "cuda")
    counted_by_torch: bool = True  # whether torch sees its device memory; else none is reported
    answers: bool = True  # False: a limit, which is timed beside the searches and finds nothing

    @property
    def available(self) -> bool:
        return find_spec(self.module) is not None


def _flashmatch_topk(prototypes: Tensor, shape: Shape) -> Search:
    return lambda queries: flashmatch.topk(queries, prototypes, shape.k, metric=shape.metric)


def _flashmatch_bank(prototypes: Tensor, shape: Shape) -> Search:
    bank = _bank(prototypes, shape)
    return lambda queries: bank.topk(queries, shape.k)


def _flashmatch_bank_with_build(prototypes: Tensor, shape: Shape) -> Search:
    _bank(prototypes[:1], shape)  # refuses before the clock starts
    return lambda queries: _bank(prototypes, shape).topk(queries, shape.k)


def _bank(prototypes: Tensor, shape: Shape):
    make = getattr(flashmatch, "PrototypeBank", None)
    if make is None:
        raise Unsupported("this flashmatch has no PrototypeBank")
    return make(prototypes, metric=shape.metric)


def _matmul_topk(prototypes: Tensor, shape: Shape) -> Search:
    require_room(shape.Q * shape.M * shape.torch_dtype.itemsize, "the score matrix", prototypes)

    def search(queries: Tensor) -> tuple[Tensor, Tensor]:
        return _scores(queries, prototypes, shape.metric).topk(shape.k)

    return search


def _matmul_topk_chunked(prototypes: Tensor, shape: Shape) -> Search:
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


def _normalised_before(
    prepare: Callable[[Tensor, Shape], Search], prototypes: Tensor, shape: Shape
):
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


def require_room(size: int, what: str, like: Tensor) -> None:
    """Half of what is free may go to one provider: the others' copies are alive as well."""
    if size > available_bytes(like.device) // 2:
        raise Unsupported(f"{what} would take {size / 2**30:.0f} GiB")


_FLASHMATCH = ("flashmatch",)
OURS = (
    Provider("flashmatch.topk", _flashmatch_topk, "flashmatch", _FLASHMATCH),
    Provider("flashmatch.PrototypeBank", _flashmatch_bank, "flashmatch", _FLASHMATCH),
    Provider(
        "flashmatch.PrototypeBank, build included",
        _flashmatch_bank_with_build,
        "flashmatch",
        _FLASHMATCH,
    ),
)
TORCH = (
    Provider("torch matmul+topk", _matmul_topk),
    Provider("torch matmul+topk, normalised before", partial(_normalised_before, _matmul_topk)),
    Provider("torch matmul+topk, chunked", _matmul_topk_chunked),
    Provider(
        "torch matmul+topk, chunked, normalised before",
        partial(_normalised_before, _matmul_topk_chunked),
    ),
    Provider("torch cosine_similarity+sort", _broadcast_sort),
)
