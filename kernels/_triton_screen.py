"""Device code of the screen: prepare vectors, then one upper bound per query and prototype group.

Axes: q queries, p prototypes, c channels, g groups. The proofs are in _bounds_fp16.py.
A tile of BLOCK_P prototypes holds BLOCK_P / GROUP groups; group i of a tile is its rows
i, i + BLOCK_P / GROUP, ..., so that on tensor-core layouts one thread holds a whole group.
"""

import triton
import triton.language as tl

from . import _bounds_fp16 as bounds_fp16
from ._triton_kernels import BLOCK_C, EPS, load_fp64, square_norm

TINY = tl.constexpr(bounds_fp16.TINY)
HUGE = tl.constexpr(bounds_fp16.HUGE)
FLOOR = tl.constexpr(bounds_fp16.FLOOR)
ABSOLUTE = tl.constexpr(bounds_fp16.ABSOLUTE)
SCALE = tl.constexpr(bounds_fp16.SCALE)
INF = tl.constexpr(float("inf"))
RAW_SQUARE_MIN = tl.constexpr(2.0**-100)  # below, fp32 squares may have been flushed
RAW_NORM_MIN = tl.constexpr(2.0**-49)  # a proven upper bound of the norm there


@triton.jit(do_not_specialize=["n_queries"])
def prepare_queries_kernel(
    queries, unit, exact, norm, scale, bias, flags,
    n_queries, n_channels, delta, epsilon, unit_scale,
    stride_qq, stride_qc, stride_uq,
    METRIC: tl.constexpr, BLOCK_Q: tl.constexpr,
):  # fmt: skip
    """One program prepares BLOCK_Q rows of (Q, C), padding rows included.

    unit (Qpad, Cpad)   unit_scale * q / |q|, zero-padded   exact (Qpad, Cpad)  q in fp64
    norm (Qpad,)        |q| in fp64, not finite if q is not  scale, bias (Qpad,) of the epilogue
    """
    offs_q = tl.program_id(0).to(tl.int64) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    exists = offs_q < n_queries
    rows = queries + offs_q * stride_qq
    square = square_norm(rows, stride_qc, exists, n_channels, BLOCK_Q)
    length = tl.sqrt(square)
    finite = square < INF  # false for NaN
    tl.store(flags + offs_q * 0, 1, mask=exists & ~finite)
    alive = exists & finite

    if METRIC == "cosine":
        factor = unit_scale / tl.maximum(length, tl.full((BLOCK_Q,), EPS, tl.float64))
        a = tl.full((BLOCK_Q,), 1.0, tl.float64) / unit_scale / unit_scale
        r = tl.zeros((BLOCK_Q,), tl.float64) + delta
    else:
        is_tiny = length < TINY
        factor = unit_scale / tl.where(is_tiny, 1.0, length)
        a = tl.where(is_tiny | (length > HUGE), 0.0, length / unit_scale)
        r = length * FLOOR + ABSOLUTE
        unbounded = length > HUGE
        if METRIC == "l2":
            a *= 2.0
            r += length * length * epsilon - length * length
        else:
            unbounded |= is_tiny & (length > 0)
        r = tl.where(unbounded, INF, r)
    factor = tl.where(alive, factor, 0.0)  # NaN * 0 is NaN
    tl.store(norm + offs_q, length)
    tl.store(scale + offs_q, tl.where(alive, a, 0.0).to(tl.float32))
    tl.store(bias + offs_q, tl.where(alive, r, -INF).to(tl.float32))

    for c in range(0, stride_uq, BLOCK_C):
        offs_c = c + tl.arange(0, BLOCK_C)
        mask_qc = alive[:, None] & (offs_c < n_channels)[None, :]
        q = load_fp64(rows[:, None] + offs_c.to(tl.int64)[None, :] * stride_qc, mask_qc)
        offs_qc = offs_q[:, None] * stride_uq + offs_c[None, :]
        tl.store(exact + offs_qc, q)
        tl.store(unit + offs_qc, (q * factor[:, None]).to(tl.float32).to(unit.dtype.element_ty))


@triton.jit(do_not_specialize=["n_prototypes", "stride_mp"])
def prepare_prototypes_kernel(
    prototypes, mask, unit, scale, bias, norm, flags,
    n_prototypes, n_channels, delta, epsilon,
    stride_pp, stride_pc, stride_mp, stride_up,
    METRIC: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """One program prepares BLOCK_P rows of (M, C), padding rows included.

    unit (Mpad, Cpad)  SCALE * p / |p| in fp16, zero-padded; zero for rows that must not match
    scale, bias (Mpad,)  of the epilogue; bias is -inf for those rows     norm (Mpad,)  |p| in fp32
    """
    offs_p = tl.program_id(0).to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)
    exists = offs_p < n_prototypes
    rows = prototypes + offs_p * stride_pp
    square = square_norm(rows, stride_pc, exists, n_channels, BLOCK_P)
    length = tl.sqrt(square)
    finite = square < INF  # false for NaN
    tl.store(flags + 1 + offs_p * 0, 1, mask=exists & ~finite)
    allowed = tl.load(mask + offs_p * stride_mp, mask=exists, other=0)
    alive = exists & finite & (allowed != 0)

    if METRIC == "cosine":
        factor = SCALE / tl.maximum(length, tl.full((BLOCK_P,), EPS, tl.float64))
        c_p = tl.zeros((BLOCK_P,), tl.float64)
    else:
        factor = SCALE / tl.where(length < TINY, 1.0, length)
        b_p = tl.where((length < TINY) | (length > HUGE), 0.0, length / SCALE)
        if METRIC == "l2":
            c_p = length * FLOOR + (length * length * epsilon - length * length)
        else:
            c_p = b_p * (SCALE * SCALE) * delta
        c_p = tl.where(length > HUGE, INF, c_p)
        tl.store(scale + offs_p, tl.where(alive, b_p, 0.0).to(tl.float32))
        tl.store(norm + offs_p, tl.where(alive, length, 0.0).to(tl.float32))
    factor = tl.where(alive, factor, 0.0)  # NaN * 0 is NaN
    tl.store(bias + offs_p, tl.where(alive, c_p, -INF).to(tl.float32))

    for c in range(0, stride_up, BLOCK_C):
        offs_c = c + tl.arange(0, BLOCK_C)
        mask_pc = alive[:, None] & (offs_c < n_channels)[None, :]
        p = load_fp64(rows[:, None] + offs_c.to(tl.int64)[None, :] * stride_pc, mask_pc)
        offs_pc = offs_p[:, None] * stride_up + offs_c[None, :]
        tl.store(unit + offs_pc, (p * factor[:, None]).to(tl.float32).to(tl.float16))


@triton.jit
def upper_bounds(best, a_q, r_q, METRIC: tl.constexpr):
    """The row's part of the epilogue, after the maximum over a group, which it commutes with.

    -inf says that nothing in the group may match, or the query may not; otherwise never NaN.
    """
    upper = best + r_q if METRIC == "l2" else best * a_q + r_q
    upper = tl.where(upper == upper, upper, INF)
    return tl.where((best == -INF) | (r_q == -INF), -INF, upper)


@triton.jit(do_not_specialize=["n_queries", "n_prototypes", "stride_mq", "stride_wq"])
def pack_mask_kernel(
    mask, words, n_queries, n_prototypes, stride_mq, stride_mp, stride_wq,
    BLOCK_Q: tl.constexpr, BLOCK_P: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """One program packs BLOCK_Q x BLOCK_P of a pair mask: bit j of a word is member j of a group.

    words (Qpad, Mpad / GROUP) int32. The scan then needs one word where it has one maximum.
    """
    GROUPS: tl.constexpr = BLOCK_P // GROUP
    offs_q = tl.program_id(0).to(tl.int64) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    offs_p = tl.program_id(1).to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)
    exists = (offs_q < n_queries)[:, None] & (offs_p < n_prototypes)[None, :]
    at = mask + offs_q[:, None] * stride_mq + offs_p[None, :] * stride_mp
    allowed = (tl.load(at, mask=exists, other=0) != 0).to(tl.int32)
    member = (tl.arange(0, BLOCK_P) // GROUPS)[None, :]
    bits = tl.reshape(allowed << member, (BLOCK_Q, GROUP, GROUPS))
    offs_g = tl.program_id(1).to(tl.int64) * GROUPS + tl.arange(0, GROUPS)
    tl.store(words + offs_q[:, None] * stride_wq + offs_g[None, :], tl.sum(bits, axis=1))


@triton.jit(do_not_specialize=["q_tiles", "stride_bq"])
def scan_kernel(
    query_unit, prototype_unit, query_scale, query_bias, prototype_scale, prototype_bias,
    words, bounds, q_tiles, delta, stride_u, stride_bq,
    METRIC: tl.constexpr, HAS_MASK: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_P: tl.constexpr,
    TILE_C: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """One program bounds BLOCK_Q queries against the groups of one tile of BLOCK_P prototypes.

    query_unit (Qpad, Cpad), prototype_unit (Mpad, Cpad): fp16, contiguous, padded to whole
    tiles, so that nothing is masked. bounds (Qpad, Mpad / GROUP). words: of pack_mask_kernel; they
    may lie where bounds will. Tiles that share prototypes run together.
    """
    tile_q = tl.program_id(0) % q_tiles
    tile_p = (tl.program_id(0) // q_tiles).to(tl.int64)
    offs_q = tile_q.to(tl.int64) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    offs_p = tile_p * BLOCK_P + tl.arange(0, BLOCK_P)
    offs_c = tl.arange(0, TILE_C)
    q_ptrs = query_unit + offs_q[:, None] * stride_u + offs_c[None, :]
    p_ptrs = prototype_unit + offs_p[:, None] * stride_u + offs_c[None, :]
    acc = tl.zeros((BLOCK_Q, BLOCK_P), tl.float32)
    for _ in range(0, stride_u, TILE_C):
        acc = tl.dot(tl.load(q_ptrs), tl.trans(tl.load(p_ptrs)), acc)
        q_ptrs += TILE_C
        p_ptrs += TILE_C

    a_q = tl.load(query_scale + offs_q)[:, None]
    r_q = tl.load(query_bias + offs_q)[:, None]
    c_p = tl.load(prototype_bias + offs_p)[None, :]
    if METRIC == "cosine":
        upper = acc + c_p
    else:
        b_p = tl.load(prototype_scale + offs_p)[None, :]
        if METRIC == "l2":
            acc = acc * a_q + a_q * (delta * SCALE * SCALE)
        upper = acc * b_p + c_p
    GROUPS: tl.constexpr = BLOCK_P // GROUP
    offs_g = tile_p * GROUPS + tl.arange(0, GROUPS)
    offs_qg = offs_q[:, None] * stride_bq + offs_g[None, :]
    upper = tl.reshape(upper, (BLOCK_Q, GROUP, GROUPS))
    if HAS_MASK:
        bits = tl.load(words + offs_qg)[:, None, :] >> tl.arange(0, GROUP)[None, :, None]
        upper = tl.where((bits & 1) != 0, upper, -INF)
    best = tl.max(upper, axis=1)
    if HAS_MASK:
        tl.debug_barrier()  # every thread has read its words before any bound overwrites one
    tl.store(bounds + offs_qg, upper_bounds(best, a_q, r_q, METRIC))


@triton.jit(do_not_specialize=["n_queries", "n_prototypes", "stride_mq", "stride_bq"])
def scan_raw_kernel(
    query_unit, prototypes, query_scale, query_bias, mask, bounds, group_norm, flags,
    n_queries, n_prototypes, n_channels, delta, epsilon,
    stride_u, stride_pp, stride_pc, stride_mq, stride_mp, stride_bq,
    METRIC: tl.constexpr, HAS_MASK: tl.constexpr, BLOCK_Q: tl.constexpr,
    BLOCK_P: tl.constexpr, TILE_C: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """One program reads one tile of BLOCK_P prototypes, as given, for at most BLOCK_Q queries.

    query_unit (BLOCK_Q, C) fp32, C a multiple of TILE_C. The prototypes are the M side of the
    product, in TF32, and their norms come out of the same read. bounds (BLOCK_Q, Mpad / GROUP),
    group_norm (Mpad / GROUP,).
    """
    tile_p = tl.program_id(0).to(tl.int64)
    offs_q = tl.arange(0, BLOCK_Q)
    offs_p = tile_p * BLOCK_P + tl.arange(0, BLOCK_P)
    offs_c = tl.arange(0, TILE_C)
    exists = offs_p < n_prototypes
    p_ptrs = prototypes + offs_p[:, None] * stride_pp + offs_c.to(tl.int64)[None, :] * stride_pc
    q_ptrs = query_unit + offs_q[None, :] * stride_u + offs_c[:, None]
    acc = tl.zeros((BLOCK_P, BLOCK_Q), tl.float32)
    square = tl.zeros((BLOCK_P,), tl.float32)
    peak = tl.zeros((BLOCK_P,), tl.float32)
    for _ in range(0, n_channels, TILE_C):
        p = tl.load(p_ptrs, mask=exists[:, None], other=0.0).to(tl.float32)
        acc = tl.dot(p, tl.load(q_ptrs), acc, input_precision="tf32")
        square += tl.sum(p * p, axis=1)
        peak = tl.maximum(peak, tl.max(tl.abs(p), axis=1))
        p_ptrs += TILE_C * stride_pc
        q_ptrs += TILE_C

    alive = exists & (square == square) & (peak < INF)  # NaN shows in the sum, inf in the peak
    tl.store(flags + 1 + offs_p * 0, 1, mask=exists & ~alive)
    unbounded = square > HUGE * HUGE
    square = tl.where(alive & ~unbounded, square, 0.0)
    acc = tl.where((alive & ~unbounded)[:, None], acc, 0.0)
    c_p = tl.where(alive, tl.where(unbounded, INF, 0.0), -INF)[:, None]
    is_small = square < RAW_SQUARE_MIN
    length = tl.sqrt(square)
    longest = tl.where(is_small, RAW_NORM_MIN, length * (1.0 + epsilon))
    a_q = tl.load(query_scale + offs_q)[None, :]
    r_q = tl.load(query_bias + offs_q)[None, :]
    if METRIC == "cosine":
        upper = acc / tl.maximum(tl.where(is_small, 0.0, length), EPS)[:, None] + c_p
    elif METRIC == "dot":
        upper = acc + delta * longest[:, None] + c_p
    else:
        shift = longest * FLOOR - tl.where(is_small, 0.0, square * (1.0 - epsilon))
        upper = (acc + delta * longest[:, None]) * a_q + shift[:, None] + c_p
    if HAS_MASK:
        mask_pq = exists[:, None] & (offs_q < n_queries)[None, :]
        at = mask + offs_q[None, :] * stride_mq + offs_p[:, None] * stride_mp
        upper = tl.where(tl.load(at, mask=mask_pq, other=0) != 0, upper, -INF)
    GROUPS: tl.constexpr = BLOCK_P // GROUP
    best = tl.max(tl.reshape(upper, (GROUP, GROUPS, BLOCK_Q)), axis=0)
    offs_g = tile_p * GROUPS + tl.arange(0, GROUPS)
    out = bounds + offs_q[None, :] * stride_bq + offs_g[:, None]
    tl.store(out, upper_bounds(best, a_q, r_q, METRIC))
    tl.store(group_norm + offs_g, tl.max(tl.reshape(longest, (GROUP, GROUPS)), axis=0))
