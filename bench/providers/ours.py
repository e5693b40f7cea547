"""The searches of this project, by their public names."""

from torch import Tensor

import flashmatch
from measuring.shapes import Shape

from .provider import Provider, Search

TOPK = "flashmatch.topk"
BANK = "flashmatch.PrototypeBank"


def _topk(prototypes: Tensor, shape: Shape) -> Search:
    return lambda queries: flashmatch.topk(queries, prototypes, shape.k, metric=shape.metric)


def _searched_bank(prototypes: Tensor, shape: Shape) -> Search:
    bank = _bank(prototypes, shape)
    return lambda queries: bank.topk(queries, shape.k)


def _bank_with_build(prototypes: Tensor, shape: Shape) -> Search:
    return lambda queries: _bank(prototypes, shape).topk(queries, shape.k)


def _bank(prototypes: Tensor, shape: Shape) -> flashmatch.PrototypeBank:
    return flashmatch.PrototypeBank(prototypes, metric=shape.metric)


_FLASHMATCH = ("flashmatch",)
OURS = (
    Provider(TOPK, _topk, "flashmatch", _FLASHMATCH),
    Provider(BANK, _searched_bank, "flashmatch", _FLASHMATCH),
    Provider(f"{BANK}, build included", _bank_with_build, "flashmatch", _FLASHMATCH),
)
