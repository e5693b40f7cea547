"""Device code that prepares vectors and masks for the fp16 and TF32 screens.

Axes: q queries, p prototypes, c channels, g groups. The proofs are in proofs/fp16.py.
"""

import triton
import triton.language as tl

from ...proofs import fp16 as bounds_fp16
from .rescore import BLOCK_C, EPS, INF, load_fp64, square_norm

TINY = tl.constexpr(bounds_fp16.TINY)
HUGE = tl.constexpr(bounds_fp16.HUGE)
FLOOR = tl.constexpr(bounds_fp16.FLOOR)
ABSOLUTE = tl.constexpr(bounds_fp16.ABSOLUTE)
SCALE = tl.constexpr(bounds_fp16.SCALE)


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


@triton.jit(do_not_specialize=["n_queries", "n_prototypes", "stride_mq", "stride_wq"])
def pack_mask_kernel(
    mask, words, n_queries, n_prototypes, stride_mq, stride_mp, stride_wq,
    BLOCK_Q: tl.constexpr, TILE_P: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """One program packs BLOCK_Q x TILE_P of a pair mask: bit j of a word is member j of a group.

    words (Qpad, Mpad / GROUP) int32. The scan then needs one word where it has one maximum.
    """
    GROUPS: tl.constexpr = TILE_P // GROUP
    offs_q = tl.program_id(0).to(tl.int64) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    offs_p = tl.program_id(1).to(tl.int64) * TILE_P + tl.arange(0, TILE_P)
    exists = (offs_q < n_queries)[:, None] & (offs_p < n_prototypes)[None, :]
    at = mask + offs_q[:, None] * stride_mq + offs_p[None, :] * stride_mp
    allowed = (tl.load(at, mask=exists, other=0) != 0).to(tl.int32)
    member = (tl.arange(0, TILE_P) // GROUPS)[None, :]
    bits = tl.reshape(allowed << member, (BLOCK_Q, GROUP, GROUPS))
    offs_g = tl.program_id(1).to(tl.int64) * GROUPS + tl.arange(0, GROUPS)
    tl.store(words + offs_q[:, None] * stride_wq + offs_g[None, :], tl.sum(bits, axis=1))
