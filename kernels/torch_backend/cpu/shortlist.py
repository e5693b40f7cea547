"""The prototypes of each query that look best by an fp32 product."""

import math

import torch
from torch import Tensor

from ...proofs.fp32 import LARGEST_NORM
from ...storage.operands import Operands

_GROUP = 16
"""Prototypes that share a maximum."""

_PLAIN_SCORES = 1 << 16
"""Up to so many scores, a selection among all costs less than maxima."""

_FEW_QUERIES = 64
"""Up to so many, products take less time where those of a prototype lie side by side."""

_HALF_PRODUCTS = 1 << 21
"""Products in bf16 at a time: 4 MiB, which stay in cache until they are made fp32."""


def room(scratch: Tensor, queries: int, rows: int, size: int, in_halves: bool) -> Tensor:
    """Where the values (Q, W >= M) of a block go, for a selection of ``size`` among them.

    W fills whole groups where they pay; what is behind M is -inf.
    """
    groups = -(-rows // _GROUP)
    pays = _groups_pay(queries * rows, groups, size)
    width = groups * _GROUP if pays else rows
    flat = scratch[: queries * width]
    side_by_side = pays and (in_halves or queries <= _FEW_QUERIES)
    values = flat.view(width, queries).T if side_by_side else flat.view(queries, width)
    values[:, rows:] = -torch.inf
    return values


def screen(queries: Tensor, operands: Operands, values: Tensor) -> bool:
    """Fill ``values`` (Q, M) with products of ``queries`` (Q, C), fp32, or as the rows are.

    False where a norm is not finite or out of range, so that values mean nothing.
    """
    if queries.dtype == torch.float32:
        _multiply(queries, operands, values)
        _weigh(values, operands, slice(None))
    else:
        operands.measure(1)
        _multiply_halves(queries, operands, values)
    return operands.longest <= LARGEST_NORM


def _multiply(queries: Tensor, operands: Operands, values: Tensor) -> None:
    unmeasured = not operands.is_measured
    norms = queries.new_empty(values.shape[1] if unmeasured else 0)
    for at, tile in operands.tiles():
        if unmeasured:
            torch.linalg.vector_norm(tile, dim=1, out=norms[at])
        torch.mm(queries, tile.T, out=values[:, at])
    if unmeasured:
        operands.take_norms(norms)


def _multiply_halves(queries: Tensor, operands: Operands, values: Tensor) -> None:
    step = min(math.ceil(_HALF_PRODUCTS / len(queries)), values.shape[1])
    products = queries.new_empty(step, len(queries))
    for at, tile in operands.tiles(queries.dtype):
        for start in range(0, len(tile), step):
            part = tile[start : start + step]
            here = slice(at.start + start, at.start + start + len(part))
            values[:, here] = torch.mm(part, queries.T, out=products[: len(part)]).T
            _weigh(values[:, here], operands, here)


def _weigh(values: Tensor, operands: Operands, at: slice) -> None:
    if operands.factor is not None:
        values *= operands.factor[at]
    elif operands.bias is not None:
        values += operands.bias[at]


def _groups_pay(scores: int, groups: int, size: int) -> bool:
    """Whether a selection of ``size`` among all costs more than maxima of groups."""
    return groups >= 3 * size and scores >= _PLAIN_SCORES


def select(values: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The ``size`` largest of each row of ``values`` (Q, W), descending, and where they are.

    Columns of the last group that stand for nothing are -inf.

    What is among the largest is a member of one of the groups with the largest maxima. Group g has
    the columns g, g + groups, g + 2 groups, ...
    """
    count, width = values.shape
    groups = width // _GROUP
    if width % _GROUP or not _groups_pay(count * width, groups, size):
        return values.topk(size)
    members = values.view(count, _GROUP, groups)
    maxima = torch.amax(members, 1, out=torch.empty_like(members[:, 0]))
    best = maxima.topk(size, sorted=False).indices
    offsets = torch.arange(0, width, groups, device="cpu")
    columns = (best[:, None] + offsets[:, None]).flatten(1)
    largest, at = values.gather(1, columns).topk(size)
    return largest, columns.gather(1, at)
