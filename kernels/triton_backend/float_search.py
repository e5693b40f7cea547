"""The Triton body: launches, and the order in which they prove a result. Imported lazily.

Chunk of prototypes by chunk, block of queries by block: bound every group, keep the best groups,
rescore those exactly, merge, then repair the queries for which that is not yet a proof. The running
keys live in the output indices; nothing waits for the host before the end.
"""

# A launch has options beside the kernel's parameters, and plain values for its constexprs.
# pyright: reportCallIssue=false, reportArgumentType=false

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
import triton
from torch import Tensor

from ..contract import finite, order
from ..contract.request import Request
from ..proofs import fp16
from . import chips, launches, tuned_tiles
from .device.float_scan import scan_kernel, scan_persistent_kernel, scan_raw_kernel
from .device.prepare import pack_mask_kernel, prepare_prototypes_kernel, prepare_queries_kernel
from .device.rescore import threshold_kernel
from .plan import MAX_K, TritonPlan, choose_plan, pad
from .tiles import TILE_P, WIDTH

HALVES = (torch.float16, torch.bfloat16)
RAW_DTYPES = (torch.float32, *HALVES)
BAD_QUERIES, BAD_PROTOTYPES, REPAIRED = range(3)  # the flags


@dataclass(frozen=True)
class Chunk:
    """Some prototypes on the queries' device, prepared unless the screen is raw."""

    originals: launches.Originals
    mask_ndim: int  # 0 none, 1 of rows, 2 of pairs
    unit: Tensor | None
    scale: Tensor | None
    bias: Tensor | None
    group_norm: Tensor  # the largest norm in each group; the raw screen fills it


@dataclass(frozen=True)
class Block(launches.Queries):
    """Some queries, prepared."""

    first_row: int
    count: int
    unit: Tensor
    scale: Tensor
    bias: Tensor


def why_not_vectors(queries: Tensor, request: Request) -> str:
    """Why this backend does not take the search; nothing where it does."""
    if request.k > MAX_K:
        return f"k above {MAX_K:,}"
    if queries.shape[1] > fp16.MAX_CHANNELS:
        return f"more than {fp16.MAX_CHANNELS:,} channels"
    return ""


def search_vectors(
    queries: Tensor, prototypes: list[Tensor], request: Request, workspace: int
) -> tuple[Tensor, Tensor]:
    """Scores (Q, k) float32 and indices (Q, k) int64. Unless it excludes, waits for the device."""
    with torch.cuda.device(queries.device) if queries.is_cuda else nullcontext():
        scores, indices, flags = search_with_flags(queries, prototypes, request, workspace)
        if not request.exclude:
            _refuse(flags.tolist(), queries, prototypes)
    return scores, indices


def search_with_flags(
    queries: Tensor, prototypes: list[Tensor], request: Request, workspace: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Also int32 flags: bad queries seen, bad prototypes seen, repairs made. Never waits."""
    keys = queries.new_full((len(queries), request.k), order.EMPTY, dtype=torch.int64)
    scores = queries.new_empty((len(queries), request.k), dtype=torch.float32)
    flags = queries.new_zeros(3, dtype=torch.int32)
    plan, metric = plan_of_vectors(queries, prototypes, request, workspace), request.metric
    thresholds = queries.new_full((len(queries),), -torch.inf, dtype=torch.float32)
    starts = range(0, len(queries), plan.query_rows)
    only = _prepare_queries(queries, 0, metric, plan, flags) if len(starts) == 1 else None
    for rows, first_row in _slices(prototypes, plan.chunk_rows):
        chunk = _prepare_prototypes(rows, first_row, queries, request.mask, metric, plan, flags)
        for q in starts:
            block = only or _prepare_queries(queries, q, metric, plan, flags)
            span = slice(q, q + block.count)
            _search_block(block, chunk, keys[span], thresholds[span], flags, metric, plan)
            del block
        del chunk  # before the next one is made
    for q in starts:
        span = slice(q, q + plan.query_rows)
        ordered = keys[span].sort(dim=1, descending=True).values
        scores[span], keys[span] = order.unpack(ordered)
    return scores, keys, flags


def plan_of_vectors(
    queries: Tensor, prototypes: list[Tensor], request: Request, workspace: int
) -> TritonPlan:
    dtypes = {p.dtype for p in prototypes}
    away = [p.element_size() for p in prototypes if p.device != queries.device]
    return choose_plan(
        len(queries),
        max(map(len, prototypes)),
        queries.shape[1],
        request.k,
        half=dtypes <= set(HALVES),
        raw=all(map(_is_raw, prototypes)),
        chip=chips.chip(queries.device),
        workspace=workspace,
        pairs=request.has_pairs,
        tuned=tuned_tiles.of_device(queries.device),
        chunk_rows=request.chunk_rows,
        streamed_bytes=max(away, default=0) * queries.shape[1],
    )


def _is_raw(rows: Tensor) -> bool:
    """Whether the raw screen may read these: whole tiles of channels, in 16-byte pieces."""
    even = rows.shape[1] % WIDTH == 0 and rows.stride(1) == 1 and rows.stride(0) % 16 == 0
    return even and rows.dtype in RAW_DTYPES and rows.data_ptr() % 16 == 0


def _slices(prototypes: list[Tensor], chunk_rows: int) -> Iterator[tuple[Tensor, int]]:
    first_row = 0
    for tensor in prototypes:
        for start in range(0, len(tensor), chunk_rows):
            yield tensor[start : start + chunk_rows], first_row + start
        first_row += len(tensor)


def _prepare_queries(
    queries: Tensor, first_row: int, metric: str, plan: TritonPlan, flags: Tensor
) -> Block:
    rows = queries[first_row : first_row + plan.query_rows]
    count, channels = rows.shape
    size, width = pad(count, plan.tile.block_q), pad(channels, WIDTH)
    unit = rows.new_empty((size, width), dtype=torch.float32 if plan.raw else torch.float16)
    exact = rows.new_empty((size, width), dtype=torch.float64)
    norm = rows.new_empty(size, dtype=torch.float64)
    scale, bias = rows.new_empty((2, size), dtype=torch.float32)
    block_q = min(plan.tile.block_q, plan.prepare_rows)
    prepare_queries_kernel[(size // block_q,)](
        rows, unit, exact, norm, scale, bias, flags,
        count, channels, *_slack(channels, plan), 1.0 if plan.raw else fp16.SCALE,
        *rows.stride(), width,
        METRIC=metric, BLOCK_Q=block_q, **plan.row_options,
    )  # fmt: skip
    return Block(exact, norm, first_row, count, unit, scale, bias)


def _prepare_prototypes(
    rows: Tensor,
    first_row: int,
    queries: Tensor,
    mask: Tensor | None,
    metric: str,
    plan: TritonPlan,
    flags: Tensor,
) -> Chunk:
    rows = rows.to(queries.device, non_blocking=True)
    count, channels = rows.shape
    size, width = pad(count, plan.tile.block_p), pad(channels, WIDTH)
    mask_ndim = 0 if mask is None else mask.ndim
    every = flags.new_ones(1, dtype=torch.uint8).expand(count)
    own = every if mask is None else mask.view(torch.uint8)[..., first_row : first_row + count]
    originals = launches.Originals(first_row, rows, own.expand(len(queries), count))
    if plan.raw:
        group_norm = flags.new_empty(size // plan.group, dtype=torch.float32)
        return Chunk(originals, mask_ndim, None, None, None, group_norm)
    by_row = own if mask_ndim == 1 else every
    unit = rows.new_empty((size, width), dtype=torch.float16)
    scale, bias, norm = rows.new_empty((3, size), dtype=torch.float32)
    prepare_prototypes_kernel[(size // plan.prepare_rows,)](
        rows, by_row, unit, scale, bias, norm, flags,
        count, channels, *_slack(channels, plan),
        *rows.stride(), by_row.stride(0), width,
        METRIC=metric, BLOCK_P=plan.prepare_rows, num_warps=4,
    )  # fmt: skip
    groups = TILE_P // plan.group
    group_norm = norm.view(-1, plan.group, groups).amax(1).flatten()
    return Chunk(originals, mask_ndim, unit, scale, bias, group_norm)


def _slack(channels: int, plan: TritonPlan) -> tuple[float, float]:
    """delta and epsilon of fp16, for the plan's screen."""
    width = pad(channels, WIDTH)
    if plan.raw:
        return fp16.raw_delta(width, plan.half), fp16.raw_epsilon(width)
    return fp16.prepared_delta(width), fp16.prepared_epsilon()


def _search_block(
    block: Block,
    chunk: Chunk,
    keys: Tensor,
    thresholds: Tensor,
    flags: Tensor,
    metric: str,
    plan: TritonPlan,
) -> None:
    """Make ``keys`` (Q, k) the best of what they were and the chunk, proven."""
    count, k = keys.shape
    whole = chunk.originals
    mask = whole.mask[block.first_row : block.first_row + count]
    originals = replace(whole, mask=mask)
    bounds = _scan(block, chunk, mask, flags, metric, plan)
    n_groups = bounds.shape[1]
    kept = min(plan.kept, n_groups)
    best = torch.topk(bounds[:count], min(kept + 1, n_groups), dim=1)
    if kept >= k:
        threshold_kernel[(count,)](
            best.values, best.indices, chunk.group_norm, block.norm, thresholds,
            k, best.values.stride(0), *_slack(whole.rows.shape[1], plan),
            METRIC=metric, BLOCK_K=plan.block_k, num_warps=1,
        )  # fmt: skip
    launches.rescore(
        block, originals, bounds, best.values[:, :kept], best.indices[:, :kept], thresholds, keys,
        metric, plan, strips=kept,
    )  # fmt: skip
    witness = best.values[:, kept:]
    launches.repair(
        block, originals, bounds, witness, thresholds, keys, flags, metric, plan
    )  # fmt: skip


def _scan(
    block: Block, chunk: Chunk, mask: Tensor, flags: Tensor, metric: str, plan: TritonPlan
) -> Tensor:
    """(Qpad, groups) upper bounds of the best score in each group; -inf where nothing may match."""
    prototypes, tile = chunk.originals.rows, plan.tile
    rows, channels = prototypes.shape
    p_tiles = triton.cdiv(rows, tile.block_p)
    bounds = block.scale.new_empty((len(block.unit), p_tiles * tile.block_p // plan.group))
    delta, epsilon = _slack(channels, plan)
    if chunk.unit is None:
        scan_raw_kernel[(p_tiles,)](
            block.unit, prototypes, block.scale, block.bias, mask, bounds, chunk.group_norm, flags,
            block.count, rows, channels, delta, epsilon,
            block.unit.stride(0), *prototypes.stride(), *mask.stride(), bounds.stride(0),
            metric, chunk.mask_ndim > 0, tile.block_q, tile.tile_c, TILE_P, plan.group,
            **tile.options,
        )  # fmt: skip
        return bounds
    words = bounds.view(torch.int32)  # each program of the scan reads its words, then overwrites
    if chunk.mask_ndim == 2:
        pack_mask_kernel[(len(block.unit) // plan.prepare_rows, len(chunk.unit) // TILE_P)](
            mask, words, block.count, rows, *mask.stride(), bounds.stride(0),
            BLOCK_Q=plan.prepare_rows, TILE_P=TILE_P, GROUP=plan.group, num_warps=4,
        )  # fmt: skip
    factors = (block.scale, block.bias, chunk.scale, chunk.bias)
    strides = (block.unit.stride(0), bounds.stride(0))
    launches.scan(
        scan_kernel,
        scan_persistent_kernel,
        block.unit,
        chunk.unit,
        (*factors, words, bounds, delta, *strides),
        metric,
        chunk.mask_ndim == 2,
        tile,
        plan.group,
    )
    return bounds


def _refuse(flags: list[int], queries: Tensor, prototypes: list[Tensor]) -> None:
    """Raise for rows that are not finite, found again: the kernels only say that there are any."""
    if flags[BAD_QUERIES]:
        finite.refuse_nonfinite("queries", ~finite.norms(queries).isfinite())
    if flags[BAD_PROTOTYPES]:
        for rows, first_row in _slices(prototypes, 2**20):
            finite.refuse_nonfinite("prototypes", ~finite.norms(rows).isfinite(), first_row)
