"""The prototypes of each query that look best by a product of fp32, or bf16."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...contract.chunks import even_slices
from ...contract.request import Request
from ...storage.operands import Operands
from .plan import LARGEST_GROUP, OnePass

_LEAST_GROUP = 4
"""Prototypes that share a maximum, at least."""

_PLAIN_SCORES = 1 << 16
"""Up to so many scores, a selection among all costs less than maxima."""

_FEW_QUERIES, _MANY_CHANNELS, _MANY_ROWS = 64, 256, 256
"""Products take less time where those of a prototype lie side by side, and selections longer. It
pays for half so many queries of so many channels; among groups, for so many queries, or from so
many channels on, and so many prototypes for each that is listed."""

_HALF_PRODUCTS = 1 << 21
"""Products in bf16 at a time: 4 MiB, which stay in cache until they are made fp32."""


Promise = Callable[[Tensor, float, int], bool]
"""Values (n, size) of the first queries, the largest norm, k -> whether to go on."""


class Listed(NamedTuple):
    """The prototypes of each query that look best."""

    values: Tensor
    """(Q, n) fp32: products, weighed as the metric wants; cosine's lack 1/|q|. Descending, if not
    all are looked at at first."""
    indices: Tensor
    """(Q, n) int64"""
    longest: float
    """At least the largest norm of any prototype; NaN where one is no number."""

    def of(self, rows: Tensor) -> "Listed":
        return Listed(self.values[rows], self.indices[rows], self.longest)


def listed(
    queries: Tensor,
    operands: Operands,
    request: Request,
    plan: OnePass,
    scratch: Tensor,
    promise: Promise | None = None,
) -> Listed | None:
    """``plan.size`` for each of ``queries`` (Q, C), of the dtype in which rows are multiplied.

    ``scratch`` (n,) fp32 is written to. None where there is no ``promise`` in what is listed first.
    """
    count = queries.shape[0]
    blocks = [slice(at, at + plan.block_rows) for at in range(0, count, plan.block_rows)]
    best: list[tuple[Tensor, Tensor]] = []
    all_longest, room = [], None
    for at in even_slices(len(operands.rows), plan.spans):
        part = operands.part(at.start, at.stop)
        if queries.dtype == torch.bfloat16:
            part.measure(1)
            if len(blocks) > 1 and not part.are_halves:  # once for all of them
                room = queries.new_empty(plan.span_rows, queries.shape[1]) if room is None else room
                part = part.rounded(room)
        about = at, part, plan, scratch
        found = []
        for block in blocks:
            found.append(_of_span(queries[block], request.of(block), *about))
            if promise is not None and not promise(found[0][0], part.longest, request.k):
                return None
            promise = None
        best = list(map(partial(_most_promising, plan), best, found)) if best else found
        all_longest.append(part.longest)
    values, indices = best[0] if len(best) == 1 else map(torch.cat, zip(*best, strict=True))
    longest = all_longest[0] if len(all_longest) == 1 else float(np.max(all_longest))  # NaN counts
    return Listed(values, indices, longest)


def _of_span(
    queries: Tensor, request: Request, at: slice, operands: Operands, plan: OnePass, scratch: Tensor
) -> tuple[Tensor, Tensor]:
    """Values and indices (Q, size), of the prototypes ``at`` alone."""
    rows, size = at.stop - at.start, plan.size
    group = _group_for(queries.shape[0], rows, size)
    values = _room(scratch, queries, rows, size, group)
    scores = values if values.shape[1] == rows else values[:, :rows]
    mask = request.mask_of(at.start, at.stop)
    _screen(queries, operands, scores)
    if mask is not None:
        scores.masked_fill_(~mask, -torch.inf)
    best, columns = _select(values, size, group, plan.is_ordered)
    if mask is not None:
        columns.clamp_(max=rows - 1)  # where too few may match, columns of padding are listed
    return best, columns + at.start if at.start else columns


def _most_promising(
    plan: OnePass, one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    values, indices = (torch.cat(both, 1) for both in zip(one, other, strict=True))
    values, at = values.topk(plan.size, sorted=plan.is_ordered)
    return values, indices.gather(1, at)


def _group_for(queries: int, rows: int, size: int) -> int:
    """How many prototypes share a maximum, for the least of M / group + size * group; 1 where a
    selection of ``size`` among all costs less."""
    group = 1 << math.isqrt(rows // size).bit_length() - 1
    pays = queries * rows >= _PLAIN_SCORES and group >= _LEAST_GROUP
    return min(group, LARGEST_GROUP) if pays else 1


def _room(scratch: Tensor, queries: Tensor, rows: int, size: int, group: int) -> Tensor:
    """Where the values (Q, W >= M) of a block go, for a selection of ``size`` among them.

    W fills whole groups; what is behind M is -inf.
    """
    count, channels = queries.shape
    width = -(-rows // group) * group
    flat = scratch[: count * width]
    is_wide = channels >= _MANY_CHANNELS
    is_quick = is_wide and rows >= _MANY_ROWS * size
    is_quick |= count <= _FEW_QUERIES or queries.dtype != torch.float32
    side_by_side = (is_wide and count <= _FEW_QUERIES // 2) or (group > 1 and is_quick)
    values = flat.view(width, count).T if side_by_side else flat.view(count, width)
    if rows < width:
        values[:, rows:] = -torch.inf
    return values


def _screen(queries: Tensor, operands: Operands, values: Tensor) -> None:
    """Fill ``values`` (Q, M); they mean nothing where a norm is not finite, or out of range."""
    if queries.dtype == torch.float32:
        _multiply(queries, operands, values)
        _weigh(values, operands, slice(None))
    else:
        _multiply_halves(queries, operands, values)


def _multiply(queries: Tensor, operands: Operands, values: Tensor) -> None:
    norms = None if operands.is_measured else queries.new_empty(values.shape[1])
    for at, tile in operands.tiles():
        if norms is not None:
            torch.linalg.vector_norm(tile, dim=1, out=norms[at])
        torch.mm(queries, tile.T, out=values[:, at])
    if norms is not None:
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


def _select(values: Tensor, size: int, group: int, is_ordered: bool) -> tuple[Tensor, Tensor]:
    """The ``size`` largest of each row of ``values`` (Q, W), and where they are.

    Columns of the last group that stand for nothing are -inf.

    What is among the largest is a member of one of the groups with the largest maxima. Group g has
    the columns g, g + groups, g + 2 groups, ...
    """
    if group == 1:
        return values.topk(size, sorted=is_ordered)
    count, width = values.shape
    groups = width // group
    members = values.view(count, group, groups)
    maxima = torch.amax(members, 1, out=torch.empty_like(members[:, 0]))
    best = maxima.topk(size, sorted=False).indices
    offsets = torch.arange(0, width, groups, device="cpu")
    columns = (best[:, None] + offsets[:, None]).flatten(1)
    largest, at = values.gather(1, columns).topk(size, sorted=is_ordered)
    return largest, columns.gather(1, at)
