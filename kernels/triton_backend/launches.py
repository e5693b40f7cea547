"""The stages that every search launches. A screen adds its own scan between prepare and select.

prepare   the queries, and the mask as bits
scan      an upper bound for every group, tile by tile
select    the best groups
rescore   their members, from the originals, in fp64
repair    the queries for which that is not yet a proof
"""

# A launch has options beside the kernel's parameters, and plain values for its constexprs.
# pyright: reportCallIssue=false, reportArgumentType=false

from typing import Any

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from . import chips
from .device.prepare import pack_mask_kernel, prepare_queries_kernel
from .device.rescore import repair_kernel, rescore_kernel
from .plan import ScanPlan, pad
from .query_block import Groups, Originals, QueryBlock
from .tiles import GROUP, TILE_P, WIDTH


def prepare_queries(
    queries: Tensor,
    flags: Tensor,
    plan: ScanPlan,
    metric: str,
    copies: tuple[Tensor, Tensor, Tensor],
    slack: tuple[float, float],
    unit_scale: float,
) -> tuple[Tensor, Tensor]:
    """(Qpad, Cpad) fp64 and its norms (Qpad,); the screen's ``copies`` are filled besides."""
    count, channels = queries.shape
    size, width = pad(count, plan.tile.block_q), pad(channels, WIDTH)
    exact = queries.new_empty((size, width), dtype=torch.float64)
    norm = queries.new_empty(size, dtype=torch.float64)
    prepare_queries_kernel[(size // plan.prepare_queries,)](
        queries, exact, norm, *copies, flags,
        count, channels, *slack, unit_scale, *queries.stride(), width,
        METRIC=metric, BLOCK_Q=plan.prepare_queries, **plan.row_options,
    )  # fmt: skip
    return exact, norm


def pack_mask(block: QueryBlock, originals: Originals, bounds: Tensor) -> Tensor:
    """(Qpad, groups) int32 words of a mask of pairs, which lie where the bounds will.

    Each program of a scan reads its words, then overwrites them.
    """
    words = bounds.view(torch.int32)
    pack_words(originals, words, block.count)
    return words


def pack_words(originals: Originals, words: Tensor, count: int) -> None:
    """Fill words (Qpad or 1, groups) int32: bit j is set where member j of a group may match.

    Of the ``count`` masks of as many queries, or of the one that all share.
    """
    pairs, groups = words.shape[0] > 1, words.shape[1]
    count, block_q, tiles = (count, 32, 1) if pairs else (1, 1, 8)
    p_tiles = triton.cdiv(groups * GROUP, TILE_P * tiles)
    pack_mask_kernel[(p_tiles, triton.cdiv(words.shape[0], block_q))](
        originals.mask, originals.row_in_page, originals.unmatchable, words,
        count, words.shape[0], originals.positions, groups,
        *originals.mask.stride(), words.stride(0),
        BLOCK_Q=block_q, TILES=tiles, TILE_P=TILE_P, SPAN=originals.span, GROUP=GROUP,
        num_warps=4,
    )  # fmt: skip


def scan(
    block: QueryBlock,
    kernel: Any,
    persistent_kernel: Any,
    queries: Tensor,
    prototypes: Tensor,
    arguments: tuple,
) -> None:
    """Bound (Qpad, width) queries against (Mpad, width) prototypes, both padded to whole tiles.

    ``arguments``: those that the kernel takes behind its sizes.
    """
    tile = block.plan.tile
    q_tiles, p_tiles = len(queries) // tile.block_q, len(prototypes) // tile.block_p
    cut = (tile.block_q, tile.block_p, tile.tile_c, tile.together, TILE_P, block.plan.group)
    if not tile.persistent:
        kernel[(q_tiles * p_tiles,)](
            queries, prototypes, q_tiles, p_tiles, *arguments,
            block.request.has_pairs, *cut, **tile.options,
        )  # fmt: skip
        return
    programs = min(q_tiles * p_tiles, chips.chip(queries.device).multiprocessors)
    persistent_kernel[(programs,)](
        TensorDescriptor.from_tensor(queries, [tile.block_q, tile.tile_c]),
        TensorDescriptor.from_tensor(prototypes, [tile.block_p, tile.tile_c]),
        q_tiles, p_tiles, *arguments, *cut, **tile.options,
    )  # fmt: skip


def select(block: QueryBlock, bounds: Tensor) -> Groups:
    """The groups to rescore, and the witness behind them."""
    kept = min(block.plan.kept, bounds.shape[1])
    upper, index = torch.topk(bounds[: block.count], min(kept + 1, bounds.shape[1]), dim=1)
    return Groups(bounds, upper, index, kept)


def rescore(
    block: QueryBlock, originals: Originals, groups: Groups, first: int, stop: int, strips: int
) -> None:
    """Make the block's keys the best of what they were and the members of groups first..stop.

    ``strips``: programs per query, at most.
    """
    best, plan, rows, mask = block.best, block.plan, originals.rows, originals.mask
    upper, index = groups.upper[:, first:stop], groups.index[:, first:stop]
    (count, k), kept = best.keys.shape, stop - first
    pool = best.keys.new_empty((count, k + kept * plan.group))
    pool[:, :k] = best.keys
    strips = min(strips, triton.cdiv(kept, plan.rescore_pack))
    # fp64 rows need a few registers more than ptxas would spend, and it would rather spill.
    options = plan.row_options if rows.dtype == torch.float64 else {"num_warps": 4}
    rescore_kernel[(count * strips,)](
        block.exact, block.norm, rows, mask, groups.bounds, upper, index, best.thresholds,
        pool[:, k:], originals.row_in_page, originals.unmatchable,
        len(rows), originals.first_row, kept, strips, rows.shape[1],
        block.exact.stride(0), *rows.stride(), *mask.stride(), groups.bounds.stride(0),
        upper.stride(0), pool.stride(0),
        METRIC=block.request.metric, TILE_P=TILE_P, SPAN=originals.span, GROUP=plan.group,
        PACK=plan.rescore_pack, **options,
    )  # fmt: skip
    best.keys.copy_(torch.topk(pool, k, dim=1, sorted=False).values)


def repair(block: QueryBlock, originals: Originals, groups: Groups) -> None:
    """Prove the block's keys, or make them right; its thresholds become exact."""
    best, plan, rows, mask = block.best, block.plan, originals.rows, originals.mask
    witness = groups.upper[:, groups.kept :]
    if witness.shape[1] == 0:  # every group was kept
        witness = torch.full_like(best.thresholds[:, None], -torch.inf)
    repair_kernel[(block.count,)](
        block.exact, block.norm, rows, mask, groups.bounds, witness, best.thresholds, best.keys,
        best.flags, originals.row_in_page, originals.unmatchable,
        len(rows), originals.first_row, groups.bounds.shape[1], best.keys.shape[1], rows.shape[1],
        block.exact.stride(0), *rows.stride(), *mask.stride(), groups.bounds.stride(0),
        witness.stride(0), best.keys.stride(0),
        METRIC=block.request.metric, TILE_P=TILE_P, SPAN=originals.span, GROUP=plan.group,
        BLOCK_G=plan.repair_groups, BLOCK_K=plan.held, **plan.row_options,
    )  # fmt: skip
