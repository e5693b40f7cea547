"""Launches that every search makes: scans cut into tiles, rescoring, and repair."""

# A launch has options beside the kernel's parameters, and plain values for its constexprs.
# pyright: reportCallIssue=false, reportArgumentType=false

from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from . import chips
from .device.rescore import kth_kernel, repair_kernel, rescore_kernel
from .plan import ScanPlan
from .tiles import TILE_P, Tile


@dataclass(frozen=True)
class Queries:
    """Some queries, as the contract's arithmetic wants them."""

    exact: Tensor  # (>= Q, Cpad) fp64, zero-padded
    norm: Tensor  # (>= Q,) fp64, not finite where the query is not


@dataclass(frozen=True)
class Originals:
    """Some prototypes as given, which the positions of a screen's tiles lead to."""

    first_row: int  # of all prototypes
    rows: Tensor  # (rows, C), readable by kernels on the queries' device
    mask: Tensor  # (Q, rows) uint8, with strides of 0 where it was given as less
    place: Tensor | None = None  # int16 by position: row within the page; None: the position's own
    dead: Tensor | None = None  # uint8 by position: may never match
    span: int = 1  # rows of a page


def rescore(
    queries: Queries,
    originals: Originals,
    bounds: Tensor,
    upper: Tensor,
    groups: Tensor,
    thresholds: Tensor,
    keys: Tensor,
    metric: str,
    plan: ScanPlan,
    strips: int,
) -> None:
    """Make ``keys`` (Q, k) the best of what they were and the members of ``groups`` (Q, n).

    ``upper`` (Q, n): their bounds. ``strips``: programs per query, at most.
    """
    (count, k), kept = keys.shape, groups.shape[1]
    rows, mask = originals.rows, originals.mask
    pool = keys.new_empty((count, k + kept * plan.group))
    pool[:, :k] = keys
    strips = min(strips, triton.cdiv(kept, plan.rescore_pack))
    # fp64 rows need a few registers more than ptxas would spend, and it would rather spill.
    options = plan.row_options if rows.dtype == torch.float64 else {"num_warps": 4}
    rescore_kernel[(count * strips,)](
        queries.exact, queries.norm, rows, mask, bounds, upper, groups, thresholds, pool[:, k:],
        originals.place, originals.dead, len(rows), originals.first_row, kept, strips,
        rows.shape[1], queries.exact.stride(0), *rows.stride(), *mask.stride(), bounds.stride(0),
        upper.stride(0), pool.stride(0),
        METRIC=metric, TILE_P=TILE_P, SPAN=originals.span, GROUP=plan.group,
        PACK=plan.rescore_pack, **options,
    )  # fmt: skip
    keys.copy_(torch.topk(pool, k, dim=1, sorted=False).values)


def raise_thresholds(keys: Tensor, thresholds: Tensor, plan: ScanPlan) -> None:
    """To the k-th scores of ``keys`` (Q, k)."""
    count, k = keys.shape
    kth_kernel[(count,)](
        keys, thresholds, k, keys.stride(0), BLOCK_K=plan.block_k, num_warps=1
    )  # fmt: skip


def repair(
    queries: Queries,
    originals: Originals,
    bounds: Tensor,
    witness: Tensor,
    thresholds: Tensor,
    keys: Tensor,
    flags: Tensor,
    metric: str,
    plan: ScanPlan,
) -> None:
    """Prove ``keys`` (Q, k), or make them right; ``thresholds`` become exact.

    ``witness`` (Q, 1): the best bound of a group not rescored; (Q, 0): there is none.
    """
    (count, k), rows, mask = keys.shape, originals.rows, originals.mask
    if witness.shape[1] == 0:
        witness = torch.full_like(thresholds[:, None], -torch.inf)
    repair_kernel[(count,)](
        queries.exact, queries.norm, rows, mask, bounds, witness, thresholds, keys, flags,
        originals.place, originals.dead, len(rows), originals.first_row, bounds.shape[1], k,
        rows.shape[1], queries.exact.stride(0), *rows.stride(), *mask.stride(), bounds.stride(0),
        witness.stride(0), keys.stride(0),
        METRIC=metric, TILE_P=TILE_P, SPAN=originals.span, GROUP=plan.group,
        BLOCK_G=plan.repair_groups, BLOCK_K=plan.block_k, **plan.row_options,
    )  # fmt: skip


def scan(
    kernel: Any,
    persistent_kernel: Any,
    queries: Tensor,
    prototypes: Tensor,
    arguments: tuple,
    metric: str,
    pairs: bool,
    tile: Tile,
    group: int,
) -> None:
    """Bound (Qpad, width) queries against (Mpad, width) prototypes, both padded to whole tiles.

    ``arguments``: the kernel's own; ``pairs``: its words are a mask of pairs.
    """
    q_tiles, p_tiles = len(queries) // tile.block_q, len(prototypes) // tile.block_p
    cut = (tile.block_q, tile.block_p, tile.tile_c, tile.together, TILE_P, group)
    if not tile.persistent:
        kernel[(q_tiles * p_tiles,)](
            queries, prototypes, q_tiles, p_tiles, *arguments, metric, pairs, *cut, **tile.options
        )
        return
    programs = min(q_tiles * p_tiles, chips.chip(queries.device).multiprocessors)
    persistent_kernel[(programs,)](
        TensorDescriptor.from_tensor(queries, [tile.block_q, tile.tile_c]),
        TensorDescriptor.from_tensor(prototypes, [tile.block_p, tile.tile_c]),
        q_tiles, p_tiles, *arguments, metric, *cut, **tile.options,
    )  # fmt: skip
