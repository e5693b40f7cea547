"""Prototypes as given become codes in passing: what codes/pages.py does for banks.

The proof is in proofs/int8.py. A row that is not finite, or that no query may match, counts for
nothing in the terms of its group. For l2 rows of a page are sorted by size, so that neighbours,
which share a bound of -|y|^2 / 2, are alike; else a position is a row.
"""

import triton
import triton.language as tl

from ...proofs import fp32, int8, int8_scan
from .flags import Flag
from .fp64 import BLOCK_C, EPS, fold
from .keys import INF

LARGEST_CODE = tl.constexpr(int8.LARGEST_CODE)
RAISE = tl.constexpr(int8.RAISE)
TINY = tl.constexpr(int8.TINY)
LARGEST_NORM = tl.constexpr(fp32.LARGEST_NORM)
U32 = tl.constexpr(fp32.U32)
SCAN_MARGIN = tl.constexpr(int8_scan.SCAN_MARGIN)
LEAST_BIAS = tl.constexpr(-1e37)  # of a group of which nothing may match
NONFINITE_PROTOTYPES = tl.constexpr(Flag.NONFINITE_PROTOTYPES.value)
SAMPLE = tl.constexpr(64)  # rows to which an origin is fitted
COLUMNS = tl.constexpr(8)  # of which a program takes the medians
ORDERED = tl.constexpr(16)  # rows of a page that are measured, and ranked, together


@triton.jit
def coordinates(rows, c, n_channels, stride_pc, exists):
    """From the c-th on, as given, (ROWS, BLOCK_C): bf16 as fp32."""
    offs_c = c + tl.arange(0, BLOCK_C)
    mask = exists[:, None] & (offs_c < n_channels)[None, :]
    x = tl.load(rows[:, None] + offs_c.to(tl.int64)[None, :] * stride_pc, mask=mask, other=0.0)
    return x.to(tl.float32) if x.dtype == tl.bfloat16 else x


@triton.jit
def inverse_norms(rows, n_channels, stride_pc, exists, ROWS: tl.constexpr):
    """(ROWS,) fp32: what a row is multiplied by for cosine; infinite where fp32 cannot tell."""
    squares = tl.zeros((ROWS, BLOCK_C), tl.float32)
    for c in range(0, n_channels, BLOCK_C):
        x = coordinates(rows, c, n_channels, stride_pc, exists).to(tl.float32)
        squares += x * x
    square = tl.sum(squares, axis=1)
    inverse = 1.0 / tl.maximum(tl.sqrt(square), EPS)
    return tl.where(square <= LARGEST_NORM * LARGEST_NORM, inverse, INF)


@triton.jit
def prototypes_in_frame(x, inverse, origin, c, n_channels, wanted):
    """y of proofs/int8.py from the c-th coordinate on, 0 for rows that are not wanted; and o."""
    offs_c = c + tl.arange(0, BLOCK_C)
    mask_c = (offs_c < n_channels)[None, :]
    o = tl.load(origin + offs_c[None, :], mask=mask_c, other=0.0)
    return tl.where(wanted[:, None] & mask_c, x * inverse[:, None] - o, 0.0), o


@triton.jit
def store_terms(group_terms, scan_terms, scale, error, size, bias):
    """The twins of int8.group_bounds and int8_scan.scan_terms, of one group; fp64 but for scale."""
    error = (error * RAISE + TINY).to(tl.float32)
    size = (size * RAISE + TINY).to(tl.float32)
    bias = (bias + tl.abs(bias) * SCAN_MARGIN).to(tl.float32)
    tl.store(group_terms, scale)
    tl.store(group_terms + 1, error)
    tl.store(group_terms + 2, size)
    tl.store(group_terms + 3, bias)
    s, e, b = scale.to(tl.float64), error.to(tl.float64), bias.to(tl.float64)
    scaled = (size.to(tl.float64) * (1.0 + SCAN_MARGIN) / s).to(tl.float32)
    tl.store(scan_terms, (1.0 / s).to(tl.float32))
    tl.store(scan_terms + 1, tl.where(size <= LARGEST_NORM, scaled, INF))
    tl.store(scan_terms + 2, (e * (1.0 + SCAN_MARGIN) / s + SCAN_MARGIN).to(tl.float32))
    tl.store(scan_terms + 3, ((b + tl.abs(b) * SCAN_MARGIN) / s).to(tl.float32))


@triton.jit(do_not_specialize=["n_rows", "stride_sp"])
def fit_origin_kernel(
    sample, origin, n_rows, n_channels, stride_sp, stride_sc, METRIC: tl.constexpr
):  # fmt: skip
    """One program writes COLUMNS coordinates of origin (C,) fp32: medians of at most SAMPLE rows.

    A median, since a single giant would move a mean away from all the others. What is not finite
    counts as 0.
    """
    offs_s = tl.arange(0, SAMPLE)
    offs_c = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    exists = offs_s < n_rows
    rows = sample + offs_s.to(tl.int64) * stride_sp
    mask = exists[:, None] & (offs_c < n_channels)[None, :]
    x = tl.load(rows[:, None] + offs_c.to(tl.int64)[None, :] * stride_sc, mask=mask, other=0.0)
    x = x.to(tl.float32)
    if METRIC == "cosine":
        x *= inverse_norms(rows, n_channels, stride_sc, exists, SAMPLE)[:, None]
    x = tl.where((x == x) & (tl.abs(x) < LARGEST_NORM), x, 0.0)
    y = tl.where(exists[:, None], x, INF)  # behind all that are there
    is_before = (offs_s[None, :] < offs_s[:, None])[:, :, None]  # of two that are equal
    below = (y[None, :, :] < y[:, None, :]) | ((y[None, :, :] == y[:, None, :]) & is_before)
    rank = tl.sum(below.to(tl.int32), axis=1)
    is_median = (rank == (n_rows - 1) // 2) & exists[:, None]
    tl.store(origin + offs_c, tl.sum(tl.where(is_median, x, 0.0), axis=0), mask=offs_c < n_channels)


@triton.jit(do_not_specialize=["n_prototypes", "n_positions"])
def order_rows_kernel(
    prototypes, origin, sizes, row_in_page, n_prototypes, n_positions, n_channels,
    stride_pp, stride_pc, TILE_P: tl.constexpr, SPAN: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """One program orders the rows of a page: by |y|^2, what is not finite and padding last.

    sizes (pages * SPAN,) fp32          scratch
    row_in_page (n_positions,) int16    by position, groups of TILE_P / GROUP interleaved
    """
    GROUPS: tl.constexpr = TILE_P // GROUP
    page = tl.program_id(0).to(tl.int64) * SPAN
    offs = tl.arange(0, ORDERED)
    ones = tl.full((ORDERED,), 1.0, tl.float32)
    for r in range(0, SPAN, ORDERED):
        offs_p = page + r + offs
        exists = offs_p < n_prototypes
        rows = prototypes + offs_p * stride_pp
        squares = tl.zeros((ORDERED, BLOCK_C), tl.float32)
        for c in range(0, n_channels, BLOCK_C):
            x = coordinates(rows, c, n_channels, stride_pc, exists).to(tl.float32)
            y, _ = prototypes_in_frame(x, ones, origin, c, n_channels, exists)
            squares += y * y
        size = tl.sum(squares, axis=1)
        tl.store(sizes + offs_p, tl.where(exists & (size == size), size, INF))
    tl.debug_barrier()
    others = tl.arange(0, SPAN)
    other = tl.load(sizes + page + others)
    for r in range(0, SPAN, ORDERED):
        own = tl.load(sizes + page + r + offs)
        # Of two that are equal the one that was given first.
        least = tl.where(others[None, :] < (r + offs)[:, None], own[:, None], -INF)
        before = (other[None, :] < own[:, None]) | (other[None, :] == least)
        rank = tl.sum(before.to(tl.int32), axis=1)
        in_tile = rank % TILE_P
        position = rank - in_tile + in_tile % GROUP * GROUPS + in_tile // GROUP
        inside = page + position < n_positions
        tl.store(row_in_page + page + position, (r + offs).to(tl.int16), mask=inside)


@triton.jit(do_not_specialize=["n_prototypes", "stride_mp", "floor"])
def code_prototypes_kernel(
    prototypes, mask, row_in_page, origin, codes, group_terms, scan_terms, words, flags,
    n_prototypes, n_channels, floor, stride_pp, stride_pc, stride_mp, stride_c,
    METRIC: tl.constexpr, TILE_P: tl.constexpr, SPAN: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """One program codes a group of rows of (M, C), padding included.

    mask (M,)                 uint8, of what may match some query
    row_in_page (Mpad,)       int16, of order_rows_kernel; None where positions are rows
    codes (Mpad, Cpad)        int8, zero-padded
    group_terms, scan_terms   (groups, 4) fp32, of int8.group_bounds and int8_scan.scan_terms
    words (groups,)           int32: bit j is set where member j may match
    floor                     int8.floor_of the channels
    """
    GROUPS: tl.constexpr = TILE_P // GROUP
    group = tl.program_id(0).to(tl.int64)
    member = tl.arange(0, GROUP)
    offs_p = group // GROUPS * TILE_P + group % GROUPS + member * GROUPS
    row = offs_p
    if row_in_page is not None:
        row = offs_p // SPAN * SPAN + tl.load(row_in_page + offs_p).to(tl.int64)
    exists = row < n_prototypes
    rows = prototypes + row * stride_pp
    inverse = tl.full((GROUP,), 1.0, tl.float32)
    if METRIC == "cosine":
        inverse = inverse_norms(rows, n_channels, stride_pc, exists, GROUP)

    nothing = tl.zeros((GROUP, BLOCK_C), tl.float32)  # what is not finite makes NaN of it
    wide = tl.zeros((GROUP, BLOCK_C), tl.float64)
    largest = tl.zeros((GROUP,), tl.float32)
    origins = tl.zeros((1, BLOCK_C), tl.float64)
    squares = tl.zeros((GROUP, BLOCK_C), tl.float32)
    for c in range(0, n_channels, BLOCK_C):
        p = coordinates(rows, c, n_channels, stride_pc, exists)
        if p.dtype == tl.float64:
            wide = tl.fma(p, p, wide)
        x = p.to(tl.float32)
        nothing += x * 0.0
        y, o = prototypes_in_frame(x, inverse, origin, c, n_channels, exists)
        origins = tl.fma(o.to(tl.float64), o.to(tl.float64), origins)
        squares += y * y
        largest = tl.maximum(largest, tl.max(tl.abs(y), axis=1))
    if prototypes.dtype.element_ty == tl.float64:  # of whose range fp32 has but a part
        finite = fold(wide, GROUP) < INF
    else:
        finite = tl.sum(nothing, axis=1) == 0.0
    tl.store(flags + NONFINITE_PROTOTYPES + offs_p * 0, 1, mask=exists & ~finite)
    matchable = exists & finite
    matchable &= tl.load(mask + row * stride_mp, mask=exists, other=0) != 0
    tl.store(words + group, tl.sum(matchable.to(tl.int32) << member, axis=0))

    largest = tl.max(tl.where(matchable, largest, 0.0), axis=0)
    scale = tl.maximum(largest * (RAISE / LARGEST_CODE), TINY)
    residuals = tl.zeros((GROUP, BLOCK_C), tl.float32)
    for c in range(0, stride_c, BLOCK_C):
        x = coordinates(rows, c, n_channels, stride_pc, exists).to(tl.float32)
        y, _ = prototypes_in_frame(x, inverse, origin, c, n_channels, matchable)
        code = tl.floor(y / scale + 0.5)
        code = tl.minimum(tl.maximum(code, -LARGEST_CODE), LARGEST_CODE)
        code = tl.where(code == code, code, 0.0)
        residual = y - code * scale
        residuals += residual * residual
        offs_c = c + tl.arange(0, BLOCK_C)
        tl.store(codes + offs_p[:, None] * stride_c + offs_c[None, :], code.to(tl.int8))

    origin_norm = tl.sqrt(fold(origins, 1))
    norm = tl.sqrt(tl.sum(squares, axis=1)).to(tl.float64)
    residual = tl.sqrt(tl.sum(residuals, axis=1)).to(tl.float64)
    known = residual + norm < INF  # false for NaN, too, which no maximum keeps
    roundings = (n_channels + 16) * U32
    summed = tl.full((GROUP,), 1.0, tl.float64) + roundings
    computed = (origin_norm + norm) * roundings + floor
    error = tl.where(known, residual * summed + computed, INF)
    error = tl.max(tl.where(matchable, error, 0.0), axis=0)
    size = tl.where(known, (norm + residual) * summed + floor, INF)
    size = tl.max(tl.where(matchable, size, 0.0), axis=0)
    bias = tl.full((GROUP,), 0.0, tl.float64)
    if METRIC == "l2":
        least = tl.maximum(norm / summed - computed, 0.0)
        bias = least * least * (-0.5 / RAISE)
    bias = tl.max(tl.where(matchable, bias, LEAST_BIAS), axis=0)
    store_terms(group_terms + group * 4, scan_terms + group * 4, scale, error, size, bias)
