"""A search of prototypes as given: screened in fp16, or in TF32 where the queries are few.

Chunk of prototypes by chunk, block of queries by block, through the stages of launches.py. The
running keys live in the output indices; nothing waits for the host before the end.
"""

# A launch has options beside the kernel's parameters, and plain values for its constexprs.
# pyright: reportCallIssue=false, reportArgumentType=false

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
import triton
from torch import Tensor

from ..contract import finite
from ..contract.request import Request
from ..proofs import fp16
from . import chips, launches, tuned_tiles
from .device.flags import Flag
from .device.float_scan import scan_kernel, scan_persistent_kernel, scan_raw_kernel
from .device.prepare import prepare_prototypes_kernel
from .device.rescore import threshold_kernel
from .plan import MAX_K, TritonPlan, choose_plan, pad
from .query_block import Groups, Originals, QueryBlock, RunningTopK, parts, whole_mask
from .tiles import TILE_P, WIDTH

HALVES = (torch.float16, torch.bfloat16)
RAW_DTYPES = (torch.float32, *HALVES)


@dataclass(frozen=True)
class FloatBlock(QueryBlock):
    """Some queries, as a float screen multiplies them."""

    plan: TritonPlan
    unit: Tensor  # (Qpad, Cpad) q / |q|: fp32 for the raw screen, else fp16, scaled
    scale: Tensor  # (Qpad,) fp32, of the epilogue
    bias: Tensor


@dataclass(frozen=True)
class Chunk:
    """Some prototypes on the queries' device, prepared unless the screen is raw."""

    originals: Originals
    group_norm: Tensor  # (groups,) fp32, the largest norm in each; the raw screen fills it
    unit: Tensor | None = None  # (Mpad, Cpad) fp16
    scale: Tensor | None = None  # (Mpad,) fp32, of the epilogue
    bias: Tensor | None = None

    def of(self, queries: slice) -> "Chunk":
        return replace(self, originals=self.originals.of(queries))


def why_not_vectors(queries: Tensor, request: Request) -> str:
    """Why this backend does not take the search; nothing where it does."""
    if request.k > MAX_K:
        return f"k above {MAX_K:,}"
    if queries.shape[1] > fp16.MAX_CHANNELS:
        return f"more than {fp16.MAX_CHANNELS:,} channels"
    return ""


def search_vectors(
    queries: Tensor, prototypes: list[Tensor], request: Request, plan: TritonPlan
) -> tuple[Tensor, Tensor, list[int]]:
    """Scores (Q, k) float32, indices (Q, k) int64, and the flags that ``refuse_flagged`` reads.

    Unless it excludes, this waits for the device; where it does, there are no flags to read.
    """
    with torch.cuda.device(queries.device) if queries.is_cuda else nullcontext():
        scores, indices, flags = search_with_flags(queries, prototypes, request, plan)
        return scores, indices, [] if request.exclude else flags.tolist()


def search_with_flags(
    queries: Tensor, prototypes: list[Tensor], request: Request, plan: TritonPlan
) -> tuple[Tensor, Tensor, Tensor]:
    """Also the flags, of triton_backend/device/flags.py. Never waits."""
    best = RunningTopK.empty(queries, request.k)
    mask = whole_mask(queries, sum(map(len, prototypes)), request)
    blocks = parts(len(queries), plan.query_rows)

    def prepared(part: slice) -> FloatBlock:
        return prepare_vectors(queries[part], request.of(part), plan, best.of(part))

    only = prepared(blocks[0]) if len(blocks) == 1 else None
    for rows, first_row in _slices(prototypes, plan.chunk_rows):
        own = mask[:, first_row : first_row + len(rows)]
        chunk = prepare_chunk(rows, first_row, own, request, plan, best.flags)
        for part in blocks:
            search_chunk(only or prepared(part), chunk.of(part))
        del chunk  # before the next one is made
    return *best.ranked(plan.query_rows), best.flags


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


def prepare_vectors(
    queries: Tensor, request: Request, plan: TritonPlan, best: RunningTopK
) -> FloatBlock:
    """A block of the queries (Q, C), of which ``request`` has the mask."""
    size, width = pad(len(queries), plan.tile.block_q), pad(queries.shape[1], WIDTH)
    unit = queries.new_empty((size, width), dtype=torch.float32 if plan.raw else torch.float16)
    scale, bias = queries.new_empty((2, size), dtype=torch.float32)
    exact, norm = launches.prepare_queries(
        queries, best.flags, plan, request.metric, (unit, scale, bias),
        slack_of(plan, queries.shape[1]), 1.0 if plan.raw else fp16.SCALE,
    )  # fmt: skip
    return FloatBlock(exact, norm, best, request, plan, unit, scale, bias)


def prepare_chunk(
    rows: Tensor, first_row: int, mask: Tensor, request: Request, plan: TritonPlan, flags: Tensor
) -> Chunk:
    """A chunk of some prototypes (M, C), of which ``mask`` (Q, M) says for all queries."""
    rows = rows.to(mask.device, non_blocking=True)
    originals = Originals(first_row, rows, mask)
    count, channels = rows.shape
    size, width = pad(count, plan.tile.block_p), pad(channels, WIDTH)
    if plan.raw:
        group_norm = flags.new_empty(size // plan.group, dtype=torch.float32)
        return Chunk(originals, group_norm)
    by_row = mask[0]
    if request.has_pairs:  # which the scan reads
        by_row = flags.new_ones(1, dtype=torch.uint8).expand(count)
    unit = rows.new_empty((size, width), dtype=torch.float16)
    scale, bias, norm = rows.new_empty((3, size), dtype=torch.float32)
    prepare_prototypes_kernel[(size // plan.prepare_rows,)](
        rows, by_row, unit, scale, bias, norm, flags,
        count, channels, *slack_of(plan, channels),
        *rows.stride(), by_row.stride(0), width,
        METRIC=request.metric, BLOCK_P=plan.prepare_rows, num_warps=4,
    )  # fmt: skip
    group_norm = norm.view(-1, plan.group, TILE_P // plan.group).amax(1).flatten()
    return Chunk(originals, group_norm, unit, scale, bias)


def slack_of(plan: TritonPlan, channels: int) -> tuple[float, float]:
    """delta and epsilon of proofs/fp16.py, for the plan's screen."""
    width = pad(channels, WIDTH)
    if plan.raw:
        return fp16.raw_delta(width, plan.half), fp16.raw_epsilon(width)
    return fp16.prepared_delta(width), fp16.prepared_epsilon()


def search_chunk(block: FloatBlock, chunk: Chunk) -> None:
    """Make the block's keys the best of what they were and of the chunk, proven."""
    bounds = scan_chunk(block, chunk)
    groups = launches.select(block, bounds)
    if groups.kept >= block.request.k:
        raise_by_bounds(block, chunk, groups)
    launches.rescore(block, chunk.originals, groups, 0, groups.kept, strips=groups.kept)
    launches.repair(block, chunk.originals, groups)


def scan_chunk(block: FloatBlock, chunk: Chunk) -> Tensor:
    """(Qpad, groups) upper bounds of the best score in each group; -inf where nothing may match."""
    originals, request, plan = chunk.originals, block.request, block.plan
    (rows, channels), tile = originals.rows.shape, plan.tile
    p_tiles = triton.cdiv(rows, tile.block_p)
    bounds = block.scale.new_empty((len(block.unit), p_tiles * tile.block_p // plan.group))
    delta, epsilon = slack_of(plan, channels)
    if chunk.unit is None:
        scan_raw_kernel[(p_tiles,)](
            block.unit, originals.rows, block.scale, block.bias, originals.mask, bounds,
            chunk.group_norm, block.best.flags, block.count, rows, channels, delta, epsilon,
            block.unit.stride(0), *originals.rows.stride(), *originals.mask.stride(),
            bounds.stride(0),
            request.metric, request.mask is not None, tile.block_q, tile.tile_c, TILE_P, plan.group,
            **tile.options,
        )  # fmt: skip
        return bounds
    words = bounds.view(torch.int32)
    if request.has_pairs:
        words = launches.pack_mask(block, originals, bounds)
    factors = (block.scale, block.bias, chunk.scale, chunk.bias)
    strides = block.unit.stride(0), bounds.stride(0)
    arguments = (*factors, words, bounds, delta, *strides, request.metric)
    kernels = (scan_kernel, scan_persistent_kernel)
    launches.scan(block, *kernels, block.unit, chunk.unit, arguments)
    return bounds


def raise_by_bounds(block: FloatBlock, chunk: Chunk, groups: Groups) -> None:
    """Raise thresholds to what the bounds of k groups prove: each group holds such a score."""
    best, upper = block.best, groups.upper
    threshold_kernel[(block.count,)](
        upper, groups.index, chunk.group_norm, block.norm, best.thresholds,
        block.request.k, upper.stride(0), *slack_of(block.plan, chunk.originals.rows.shape[1]),
        METRIC=block.request.metric, num_warps=1,
    )  # fmt: skip


def refuse_flagged(flags: list[int], queries: Tensor, prototypes: list[Tensor]) -> None:
    """Raise for rows that are not finite, found again: the kernels only say that there are any."""
    if not flags:
        return
    if flags[Flag.NONFINITE_QUERIES]:
        finite.refuse_nonfinite("queries", ~finite.norms(queries).isfinite())
    if flags[Flag.NONFINITE_PROTOTYPES]:
        for rows, first_row in _slices(prototypes, 2**20):
            finite.refuse_nonfinite("prototypes", ~finite.norms(rows).isfinite(), first_row)
