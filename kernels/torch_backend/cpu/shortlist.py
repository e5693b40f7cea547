"""The prototypes of each query that look best by an fp32 product."""

from typing import NamedTuple

import torch
from torch import Tensor

from ...proofs.fp32 import LARGEST_NORM
from ...storage.operands import Operands

_GROUP = 16
"""Prototypes that share a maximum."""

_PLAIN_SCORES = 1 << 16
"""Up to so many scores, a selection among all costs less than maxima."""


class Shortlist(NamedTuple):
    values: Tensor
    """(Q, n) fp32 screened values, descending; -inf where nothing may match."""
    indices: Tensor
    """(Q, n) int64"""
    left: Tensor | None
    """(Q, 1) fp32, at least the screened value of everything else; None where there is nothing."""


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


def select(values: Tensor, count: int, size: int) -> tuple[Tensor, Tensor]:
    """The ``size`` largest of the first ``count`` columns, descending, and where they are.

    ``values`` (Q, W), with W a multiple of the group. What is among the largest is a member of one
    of the groups with the largest maxima. Group g: columns g, g + groups, g + 2 groups, ...
    """
    groups = values.shape[1] // _GROUP
    if groups < 3 * size or len(values) * count < _PLAIN_SCORES:
        return values[:, :count].topk(size)
    values[:, count:] = -torch.inf  # those that fill up the last group
    members = values.view(len(values), _GROUP, groups)
    best = members.amax(1).topk(size, sorted=False).indices
    offsets = torch.arange(0, groups * _GROUP, groups, device="cpu")
    columns = (best[:, None] + offsets[:, None]).flatten(1)
    largest, at = values.gather(1, columns).topk(size)
    return largest, columns.gather(1, at)


def padded(rows: int) -> int:
    return -(-rows // _GROUP) * _GROUP


def narrowed(
    values: Tensor, indices: Tensor, k: int, rows: int, slack: Tensor | float
) -> Shortlist:
    """The largest ``values`` (Q, n) of ``rows`` without the columns that no query needs.

    Those are more than two slacks, (Q, 1) or one number, below every query's k-th value.
    """
    size = values.shape[1]
    if size > k + 1:
        needed = values >= values[:, k - 1 : k] - slack * 2.5
        size = max(int(needed.sum(1).amax()), k)
    after = min(size, values.shape[1] - 1)
    left = None if size == rows else values[:, after : after + 1]
    return Shortlist(values[:, :size], indices[:, :size], left)
