"""Queries as the screens multiply them.

The proofs are in proofs/tf32.py and proofs/int8.py.
"""

import triton
import triton.language as tl

from ...proofs import fp32, int8, tf32
from .flags import NEVER, Flag
from .fp64 import BLOCK_C, EPS, fold, load_fp64, square_norm
from .keys import INF

TINY = tl.constexpr(tf32.TINY)
HUGE = tl.constexpr(tf32.HUGE)
FLOOR = tl.constexpr(tf32.FLOOR)
ABSOLUTE = tl.constexpr(tf32.ABSOLUTE)
LARGEST_CODE = tl.constexpr(int8.LARGEST_CODE)
LARGEST_NORM = tl.constexpr(fp32.LARGEST_NORM)
RAISE = tl.constexpr(int8.RAISE)
CODE_TINY = tl.constexpr(int8.TINY)
U64 = tl.constexpr(fp32.U64)
NONFINITE_QUERIES = tl.constexpr(Flag.NONFINITE_QUERIES.value)
PAIRS = tl.constexpr(512)  # coordinates that a program rotates at a time, by two


@triton.jit
def measured(
    queries, norm, flags, offs_q, n_queries, n_channels, stride_qq, stride_qc,
    BLOCK_Q: tl.constexpr,
):  # fmt: skip
    """Pointers to rows (Q, C), their norms in fp64, which are stored, and which of them may match.

    Padding may not, nor what is not finite, of which the flag tells.
    """
    exists = offs_q < n_queries
    rows = queries + offs_q * stride_qq
    square = square_norm(rows, stride_qc, exists, n_channels, BLOCK_Q)
    length = tl.sqrt(square)
    finite = square < INF  # false for NaN
    tl.store(flags + NONFINITE_QUERIES + offs_q * 0, 1, mask=exists & ~finite)
    tl.store(norm + offs_q, length)
    return rows, length, exists & finite


@triton.jit
def begin(thresholds, resume, scores, indices, offs_q, n_queries, k, is_first):
    """Where a query begins: with nothing, or with what is found already; none has failed."""
    exists = offs_q < n_queries
    if is_first:
        for rank in range(0, k, BLOCK_C):
            ranks = rank + tl.arange(0, BLOCK_C)
            at, mask = offs_q[:, None] * k + ranks[None, :], exists[:, None] & (ranks < k)[None, :]
            tl.store(scores + at, -INF, mask=mask)
            tl.store(indices + at, -1, mask=mask)
    found = scores + offs_q * k + k - 1
    kth = tl.load(found, mask=exists, other=-INF)
    kth = tl.where(is_first != 0, -INF, kth)  # of the first, whoever has filled that by now
    tl.store(thresholds + offs_q, kth)
    tl.store(resume + offs_q, NEVER)


@triton.jit(do_not_specialize=["n_queries", "k", "is_first"])
def scale_queries_kernel(
    queries, norm, unit, scale, bias, thresholds, resume, scores, indices, flags,
    n_queries, n_channels, k, is_first, delta, epsilon, stride_qq, stride_qc, stride_u,
    METRIC: tl.constexpr, BLOCK_Q: tl.constexpr,
):  # fmt: skip
    """One program prepares BLOCK_Q rows of (Q, C) for the TF32 screen, padding included.

    norm (Qpad,)              |q| in fp64, not finite where q is not
    unit (Qpad, Cpad)         q / |q| in fp32, zero-padded
    scale, bias (Qpad,)       of tf32.query_factors
    thresholds, resume (Qpad,)  as they begin
    scores, indices (Q, k)    the best so far, best first; filled with nothing if ``is_first``
    """
    offs_q = tl.program_id(0).to(tl.int64) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    rows, length, matchable = measured(
        queries, norm, flags, offs_q, n_queries, n_channels, stride_qq, stride_qc, BLOCK_Q
    )  # fmt: skip
    begin(thresholds, resume, scores, indices, offs_q, n_queries, k, is_first)
    divisor, a, r = query_factors(length, delta, epsilon, METRIC, BLOCK_Q)
    factor = tl.where(matchable, 1.0 / divisor, 0.0)  # NaN * 0 is NaN
    tl.store(scale + offs_q, tl.where(matchable, a, 0.0).to(tl.float32))
    tl.store(bias + offs_q, tl.where(matchable, r, -INF).to(tl.float32))
    for c in range(0, stride_u, BLOCK_C):
        offs_c = c + tl.arange(0, BLOCK_C)
        mask_qc = matchable[:, None] & (offs_c < n_channels)[None, :]
        q = load_fp64(rows[:, None] + offs_c.to(tl.int64)[None, :] * stride_qc, mask_qc)
        copy = (q * factor[:, None]).to(tl.float32)
        tl.store(unit + offs_q[:, None] * stride_u + offs_c[None, :], copy)


@triton.jit
def query_factors(length, delta, epsilon, METRIC: tl.constexpr, BLOCK_Q: tl.constexpr):
    """The twin of tf32.query_factors in proofs, in fp64."""
    one = tl.full((BLOCK_Q,), 1.0, tl.float64)
    if METRIC == "cosine":
        divisor = tl.maximum(length, EPS * one)
        a, r = one, one * delta
    else:
        is_tiny = length < TINY
        divisor = tl.where(is_tiny, 1.0, length)
        a = tl.where(is_tiny | (length > HUGE), 0.0, length)
        r = length * FLOOR + ABSOLUTE
        unbounded = length > HUGE
        if METRIC == "l2":
            a *= 2.0
            r += length * length * epsilon - length * length
        else:
            unbounded |= is_tiny & (length > 0)
        r = tl.where(unbounded, INF, r)
    return divisor, a, r


@triton.jit
def in_frame(
    rows, rotated, origin, divisor, matchable, offs_q, c, n_channels, stride_qc,
    METRIC: tl.constexpr,
):  # fmt: skip
    """Coordinates from the c-th on: q, of norm 1 for cosine; x of proofs/int8.py; the origin's."""
    offs_c = c + tl.arange(0, BLOCK_C)
    mask_c = offs_c < n_channels
    mask_qc = matchable[:, None] & mask_c[None, :]
    o = tl.load(origin + offs_c, mask=mask_c, other=0.0).to(tl.float64)[None, :]
    q = load_fp64(rows[:, None] + offs_c.to(tl.int64)[None, :] * stride_qc, mask_qc)
    if METRIC == "cosine":
        q = q / divisor[:, None]
    if rotated is not None:
        at = rotated + offs_q[:, None] * n_channels + offs_c[None, :]
        x = tl.load(at, mask=mask_qc, other=0.0)
    elif METRIC == "l2":
        x = tl.where(mask_qc, q - o, 0.0)
    else:
        x = q
    return q, x, o


@triton.jit
def hadamard(row, n_stages):
    """Transform 2^n_stages fp64 numbers in memory, as codes/rotation.py does, but for the scale."""
    offs = tl.arange(0, PAIRS)
    width = 1 << n_stages
    for stage in range(0, n_stages):
        step = 1 << stage
        tl.debug_barrier()  # every thread has written what others read
        for i in range(0, width // 2, PAIRS):
            pair = i + offs
            there = pair < width // 2
            first = row + ((pair >> stage << stage) * 2 + (pair & (step - 1)))
            a = tl.load(first, mask=there, other=0.0)
            b = tl.load(first + step, mask=there, other=0.0)
            tl.store(first, a + b, mask=there)
            tl.store(first + step, a - b, mask=there)
    tl.debug_barrier()


@triton.jit(do_not_specialize=["n_stages"])
def rotate_queries_kernel(
    queries, signs, origin, rotated, n_channels, n_stages, stride_qq, stride_qc,
    METRIC: tl.constexpr,
):  # fmt: skip
    """One program moves a row of (Q, C) into a frame that rotates: the twin of codes/rotation.py.

    signs (2, C)      int8, contiguous
    origin (C,)       of the frame, fp32
    rotated (Q, C)    fp64, contiguous; whatever comes of a row that is not finite
    """
    q = tl.program_id(0).to(tl.int64)
    queries += q * stride_qq
    rotated += q * n_channels
    one, nothing = tl.full((1,), 1.0, tl.float64), tl.arange(0, 1).to(tl.int64)
    divisor = one
    if METRIC == "cosine":
        square = square_norm(queries + nothing, stride_qc, nothing == 0, n_channels, 1)
        divisor = tl.maximum(tl.sqrt(square), EPS * one)
    offs = tl.arange(0, PAIRS)
    for c in range(0, n_channels, PAIRS):
        at = c + offs
        there = at < n_channels
        x = load_fp64(queries + at.to(tl.int64) * stride_qc, there) / divisor
        if METRIC == "l2":
            x -= tl.load(origin + at, mask=there, other=0.0).to(tl.float64)
        sign = tl.load(signs + at, mask=there, other=0)
        tl.store(rotated + at, x * sign.to(tl.float64), mask=there)
    hadamard(rotated, n_stages)
    width = 1 << n_stages
    rest = n_channels - width
    scale = one / tl.sqrt(one * width)  # of the transform before, and of that which follows
    for c in range(0, n_channels, PAIRS):
        at = c + offs
        there = at < n_channels
        factor = tl.load(signs + n_channels + at, mask=there, other=0).to(tl.float64)
        factor *= tl.where(at < width, scale, one) * tl.where(at >= rest, scale, one)
        tl.store(rotated + at, tl.load(rotated + at, mask=there, other=0.0) * factor, mask=there)
    hadamard(rotated + rest, n_stages)


@triton.jit(do_not_specialize=["n_queries", "k", "is_first", "stride_t"])
def code_queries_kernel(
    queries, origin, rotated, norm, codes, terms, thresholds, resume, scores, indices, flags,
    n_queries, n_channels, k, is_first, slack, stride_qq, stride_qc, stride_t, stride_c,
    METRIC: tl.constexpr, BLOCK_Q: tl.constexpr,
):  # fmt: skip
    """One program codes BLOCK_Q rows of (Q, C), padding included: int8.code_queries, query_terms.

    origin (C,)         of the frame, fp32
    rotated (Q, C)      queries in a frame that has a rotation, fp64, contiguous; else None
    norm (Qpad,)        |q| in fp64, not finite where q is not
    codes (Qpad, Cpad)  int8, zero-padded
    terms (4, Qpad)     fp32 rows of a, |d|, |x|, c; c is -inf for padding and what is not finite
    thresholds, resume (Qpad,)  as they begin
    scores, indices (Q, k)  the best so far, best first; filled with nothing if ``is_first``
    slack               fp64_slack of the channels, for l2
    """
    offs_q = tl.program_id(0).to(tl.int64) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    rows, length, matchable = measured(
        queries, norm, flags, offs_q, n_queries, n_channels, stride_qq, stride_qc, BLOCK_Q
    )  # fmt: skip
    begin(thresholds, resume, scores, indices, offs_q, n_queries, k, is_first)
    length = tl.where(matchable, length, 0.0)
    divisor = tl.maximum(length, tl.full((BLOCK_Q,), EPS, tl.float64))

    sums = tl.zeros((BLOCK_Q, BLOCK_C), tl.float64)  # of q.o, |o|^2 and |x|^2
    origins = tl.zeros((1, BLOCK_C), tl.float64)
    squares = tl.zeros((BLOCK_Q, BLOCK_C), tl.float64)
    largest = tl.zeros((BLOCK_Q,), tl.float64)
    for c in range(0, n_channels, BLOCK_C):
        q, x, o = in_frame(
            rows, rotated, origin, divisor, matchable, offs_q, c, n_channels, stride_qc, METRIC
        )  # fmt: skip
        sums += q * o
        origins += o * o
        squares = tl.fma(x, x, squares)
        largest = tl.maximum(largest, tl.max(tl.abs(x), axis=1))
    scale = tl.maximum(largest / LARGEST_CODE, CODE_TINY)

    residuals = tl.zeros((BLOCK_Q, BLOCK_C), tl.float64)
    for c in range(0, stride_c, BLOCK_C):
        _, x, _ = in_frame(
            rows, rotated, origin, divisor, matchable, offs_q, c, n_channels, stride_qc, METRIC
        )  # fmt: skip
        code = tl.floor(x / scale[:, None] + 0.5)
        code = tl.minimum(tl.maximum(code, -LARGEST_CODE), LARGEST_CODE)
        residual = x - code * scale[:, None]
        residuals = tl.fma(residual, residual, residuals)
        offs_c = c + tl.arange(0, BLOCK_C)
        tl.store(codes + offs_q[:, None] * stride_c + offs_c[None, :], code.to(tl.int8))

    origin_norm = tl.sqrt(fold(origins, 1))
    x_norm = tl.sqrt(fold(squares, BLOCK_Q))
    reach = origin_norm + x_norm
    computed = (n_channels + 64) * U64 * reach
    shift = fold(sums, BLOCK_Q)
    if METRIC == "l2":
        shift -= 0.5 * origin_norm * origin_norm
        about = length + origin_norm
        shift += slack * (about * about) - 0.5 * length * length
    shift += 2.0 * computed * reach
    size = x_norm * RAISE + computed + CODE_TINY
    error = tl.sqrt(fold(residuals, BLOCK_Q)) * RAISE + computed + CODE_TINY
    unbounded = (size > LARGEST_NORM) | ~(tl.abs(shift) <= LARGEST_NORM * LARGEST_NORM)
    shift = tl.where(unbounded, INF, shift)
    shift = tl.where(matchable, shift, -INF)
    tl.store(terms + offs_q, scale.to(tl.float32))
    tl.store(terms + stride_t + offs_q, error.to(tl.float32))
    tl.store(terms + 2 * stride_t + offs_q, size.to(tl.float32))
    tl.store(terms + 3 * stride_t + offs_q, shift.to(tl.float32))
