"""The prototypes of each query that look best by an fp32 product."""

import torch
from torch import Tensor

from ...proofs.fp32 import LARGEST_NORM
from ...storage.operands import Operands

_GROUP = 16
"""Prototypes that share a maximum."""

_PLAIN_SCORES = 1 << 16
"""Up to so many scores, a selection among all costs less than maxima."""


def screen(queries: Tensor, operands: Operands, values: Tensor) -> bool:
    """Fill ``values`` (Q, M) with products of ``queries`` (Q, C) fp32.

    False where a norm is not finite or out of range, so that values mean nothing.
    """
    unmeasured = not operands.is_measured
    norms = queries.new_empty(values.shape[1] if unmeasured else 0)
    for at, tile in operands.tiles():
        if unmeasured:
            torch.linalg.vector_norm(tile, dim=1, out=norms[at])
        torch.mm(queries, tile.T, out=values[:, at])
    if unmeasured:
        operands.take_norms(norms)
    if not operands.longest <= LARGEST_NORM:
        return False
    if operands.factor is not None:
        values *= operands.factor
    elif operands.bias is not None:
        values += operands.bias
    return True


def padded(queries: int, rows: int, size: int) -> int:
    """How many columns M values of each query should have room for: whole groups, or M."""
    groups = -(-rows // _GROUP)
    return groups * _GROUP if _groups_pay(queries * rows, groups, size) else rows


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
    best = members.amax(1).topk(size, sorted=False).indices
    offsets = torch.arange(0, width, groups, device="cpu")
    columns = (best[:, None] + offsets[:, None]).flatten(1)
    largest, at = values.gather(1, columns).topk(size)
    return largest, columns.gather(1, at)
