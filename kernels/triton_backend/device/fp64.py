"""Vectors in fp64, and the scores that are the results.

The bits of a score do not depend on the kernel, layout or tile that computes it: a sum runs channel
block by channel block in fused multiply-adds, and folds by explicit pairs.
"""

import triton
import triton.language as tl

from ...contract.metrics import COSINE_EPS
from .keys import EMPTY, INF, pack

EPS = tl.constexpr(COSINE_EPS)
BLOCK_C = tl.constexpr(64)  # the order of every fp64 sum follows from it: results change with it
FOLDS = tl.constexpr(6)  # 2**FOLDS is BLOCK_C


@triton.jit
def load_fp64(pointers, mask):
    """Any shipped dtype as fp64; bf16 by way of fp32, since the interpreter casts it wrongly."""
    x = tl.load(pointers, mask=mask, other=0.0)
    if x.dtype == tl.bfloat16:
        x = x.to(tl.float32)
    return x.to(tl.float64)


@triton.jit
def fold(x, ROWS: tl.constexpr):
    """(ROWS, BLOCK_C) -> (ROWS,) sums of neighbours: a sum of two has no order to depend on."""
    for _ in tl.static_range(FOLDS):
        x = tl.sum(tl.reshape(x, (ROWS, x.shape[1] // 2, 2)), axis=2)
    return tl.reshape(x, (ROWS,))


@triton.jit
def square_norm(rows, stride_c, exists, n_channels, ROWS: tl.constexpr):
    """(ROWS,) pointers to vectors -> their squared norms in fp64; 0 where no vector exists."""
    sums = tl.zeros((ROWS, BLOCK_C), tl.float64)
    for c in range(0, n_channels, BLOCK_C):
        offs_c = c + tl.arange(0, BLOCK_C).to(tl.int64)
        mask = exists[:, None] & (offs_c < n_channels)[None, :]
        x = load_fp64(rows[:, None] + offs_c[None, :] * stride_c, mask)
        sums = tl.fma(x, x, sums)
    return fold(sums, ROWS)


@triton.jit
def exact_keys(
    query, length, prototypes, offs_p, allowed, first_row, n_channels,
    stride_qc, stride_pp, stride_pc, METRIC: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """The keys of one query against ROWS prototypes; EMPTY where not allowed or not finite."""
    rows = prototypes + offs_p * stride_pp
    dots = tl.zeros((ROWS, BLOCK_C), tl.float64)
    squares = tl.zeros((ROWS, BLOCK_C), tl.float64)
    for c in range(0, n_channels, BLOCK_C):
        offs_c = c + tl.arange(0, BLOCK_C).to(tl.int64)
        q = load_fp64(query + offs_c * stride_qc, offs_c < n_channels)[None, :]
        mask = allowed[:, None] & (offs_c < n_channels)[None, :]
        p = load_fp64(rows[:, None] + offs_c[None, :] * stride_pc, mask)
        squares = tl.fma(p, p, squares)
        if METRIC == "l2":
            dots = tl.fma(q - p, q - p, dots)
        else:
            dots = tl.fma(tl.broadcast_to(q, (ROWS, BLOCK_C)), p, dots)
    square = fold(squares, ROWS)
    score = fold(dots, ROWS)
    if METRIC == "l2":
        score = -score
    if METRIC == "cosine":
        eps = tl.full((ROWS,), EPS, tl.float64)  # a bare EPS would be rounded to fp32
        score /= tl.maximum(length, eps) * tl.maximum(tl.sqrt(square), eps)
    matchable = allowed & (square + length < INF)  # false for NaN, too
    score = score.to(tl.float32)
    score = tl.where(matchable & (score != 0.0), score, 0.0)  # -0 and 0 are one score
    return tl.where(matchable, pack(score, first_row + offs_p), EMPTY)
