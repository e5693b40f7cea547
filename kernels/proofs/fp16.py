"""Why the Triton screens may exclude: every inequality they rely on, and the numbers made of them.

Notation. q, p are the vectors as given, |.| the 2-norm, C the channels (padded), x the cosine
q.p / (|q||p|), s the real score, S = fp32(fp64(s)) the contract's score. A screen returns u >= s
(as evaluated in fp64, too); rounding to fp32 is monotone, so u < T implies S < T: exclusion is
strict, and a tie with T survives.

1. Operands. The prepared screen multiplies fp16 copies of 2^15 q/|q| and 2^15 p/|p|:
     fp64 product, fp64 -> fp32 -> fp16:  relative 2^-11 + 2^-23 per element (round to nearest);
     below fp16's smallest normal, 2^-14: absolute 2^-14, as if flushed (2^-29 of the vector), so
     that hardware without fp16 subnormals is covered.
   Vector error, by the triangle inequality:  rho = 2^-11 + 2^-23 + sqrt(C) 2^-29.
   The scale 2^15 keeps every element below 65504 and every sum of products below 2^31.
   The raw screen multiplies q/|q| and p themselves in TF32. Tensor cores may drop the low 13 bits
   rather than round: relative 2^-10 each, and none on p when its dtype (fp16, bf16) fits TF32.
   |q'.p' - q.p| <= (rho_q + rho_p + rho_q rho_p) |q||p|   (Cauchy-Schwarz).

2. Accumulation. A tensor core aligns the products of a block to the largest exponent, cuts them
   there and adds; the narrowest known alignment keeps 23 fraction bits (Fasi, Higham, Mikaitis,
   Pranesh, "Numerical behavior of NVIDIA tensor cores", PeerJ CS 2021; later chips keep more).
   Each cut loses at most 2^-23 sum|q_i p_i|. There are C products, at most C/4 accumulators that
   join a block, and C/4 block results cut once more at 2^-22: in all at most
   (C + C/4) 2^-23 + (C/4) 2^-22 < C 2^-22 times sum|q_i p_i| <= |q'||p'|.
   An fp32 FMA chain (2^-24 per step) is inside the same bound.

3. Everything around it, in fp32 (norms rounded from fp64, at most five operations): 2^-21, and the
   fp64 evaluation of s itself, (C + 8) 2^-52. Together below 2^-20 for C <= MAX_CHANNELS.
   The raw screen has its squared norm from an fp32 sum in any order: relative (C + 8) 2^-23 holds
   n^2 (error C 2^-24), squares flushed below 2^-126 (C 2^-26 where n^2 >= 2^-100), square root
   and division (2^-22 each).

So  |x' - x| <= delta,  delta = (1) + (2) + (3), and the upper bounds are
     cosine   x' + delta
     dot      |q||p| (x' + delta)
     l2       2 |q||p| (x' + delta) - (1 - epsilon)(|p|^2 + |q|^2)
with epsilon = 2^-20 (prepared) for the rounding of the squares, of the two sums and of the
fp64 evaluation, which is at most (C + 3) 2^-52 (|p|^2 + |q|^2).

4. Range. Vectors shorter than TINY are screened as zero; s moves by at most |q| TINY (dot),
   2 |q| TINY (l2), which FLOOR |q| and FLOOR |p| cover, FLOOR = 4 TINY. Vectors longer than HUGE,
   and queries shorter than TINY under dot, get the bound +inf: they are never excluded. Within
   that range no fp32 step overflows (2^31 * 2^46 * 2^46 < 2^127), and what fp32 flushes to zero
   is below 2^-124 or a factor 2^-141 of a norm; ABSOLUTE = 2^-120 and FLOOR cover it.

5. From below. The column that attains a group's bound is a live prototype, and its score is at
   least that bound minus twice the slack that was added to it. WIDEN rounds that slack up.

What is made of all this stands here in torch, and in the kernels of triton_backend/device, which
its selfcheck holds against it, bit by bit.
"""

import math
from functools import cache

import numpy as np
import torch
from torch import Tensor

from ..contract.metrics import COSINE_EPS

MAX_CHANNELS = 2**18  # beyond, every bound is infinite
TINY = 2.0**-100
HUGE = 2.0**61
FLOOR = 2.0**-98
ABSOLUTE = 2.0**-120
WIDEN = 1.0 + 2.0**-10
SCALE = 2.0**15


@cache
def prepared_delta(channels: int) -> float:
    """delta of the fp16 screen over ``channels`` channels, padding included."""
    rho = 2.0**-11 + 2.0**-23 + math.sqrt(channels) * 2.0**-29
    return _delta(rho, rho, channels)


@cache
def raw_delta(channels: int, exact_prototypes: bool) -> float:
    """delta of the TF32 screen; ``exact_prototypes`` where their dtype fits TF32."""
    rho = 2.0**-10 + 2.0**-23
    delta = _delta(rho, 0.0 if exact_prototypes else rho, channels)
    return _raised_to_fp32(delta + raw_epsilon(channels))


def prepared_epsilon() -> float:
    return 2.0**-20


@cache
def raw_epsilon(channels: int) -> float:
    """Relative error of an fp32 squared norm and of what is made of it."""
    if channels > MAX_CHANNELS:
        return math.inf
    return (channels + 8) * 2.0**-23 + 2.0**-20


def _delta(rho_q: float, rho_p: float, channels: int) -> float:
    if channels > MAX_CHANNELS:
        return math.inf
    operands = rho_q + rho_p + rho_q * rho_p
    accumulation = channels * 2.0**-22 * (1 + rho_q) * (1 + rho_p)
    return _raised_to_fp32(operands + accumulation + 2.0**-20)


def _raised_to_fp32(number: float) -> float:
    """The next number of fp32, which is how kernels are handed it."""
    rounded = np.float32(number)
    return float(rounded if rounded >= number else np.nextafter(rounded, np.float32(math.inf)))


def query_factors(
    norms: Tensor, metric: str, delta: float, epsilon: float, unit_scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(Q,) each: what finite queries are multiplied by (fp64); scale and bias of them (fp32)."""
    tiny, huge = norms < TINY, norms > HUGE
    if metric == "cosine":
        factor = unit_scale / norms.clamp(min=COSINE_EPS)
        return factor, _all(norms, unit_scale**-2), _all(norms, delta)
    scale = (norms / unit_scale).masked_fill(tiny | huge, 0)
    bias = norms * FLOOR + ABSOLUTE
    unbounded = huge
    if metric == "l2":
        scale, bias = scale * 2, bias + (norms.square() * epsilon - norms.square())
    else:
        unbounded = unbounded | (tiny & (norms > 0))
    bias = bias.masked_fill(unbounded, torch.inf)
    return unit_scale / norms.masked_fill(tiny, 1), scale.float(), bias.float()


def prototype_factors(
    norms: Tensor, metric: str, delta: float, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(M,) each: what finite prototypes are multiplied by (fp64); scale, bias of them (fp32)."""
    if metric == "cosine":
        return SCALE / norms.clamp(min=COSINE_EPS), _all(norms, 0), _all(norms, 0)
    tiny, huge = norms < TINY, norms > HUGE
    scale = (norms / SCALE).masked_fill(tiny | huge, 0)
    if metric == "l2":
        bias = norms * FLOOR + (norms.square() * epsilon - norms.square())
    else:
        bias = scale * (SCALE * SCALE) * delta
    bias = bias.masked_fill(huge, torch.inf)
    return SCALE / norms.masked_fill(tiny, 1), scale.float(), bias.float()


def upper_bounds(
    products: Tensor,
    queries: tuple[Tensor, Tensor],
    prototypes: tuple[Tensor, Tensor],
    metric: str,
    delta: float,
) -> Tensor:
    """(Q, M) fp32 upper bounds of scores, from products (Q, M) fp32 of scaled copies.

    ``queries``, ``prototypes``: scale and bias of each. -inf where a bias is; never NaN.
    """
    (a, r), (b, c) = (pair[:, None] for pair in queries), prototypes
    if metric == "l2":
        products = products * a + a * (delta * SCALE * SCALE)
    upper = products + c if metric == "cosine" else products * b + c
    bound = upper + r if metric == "l2" else upper * a + r
    bound = torch.where(bound == bound, bound, torch.inf)
    return bound.masked_fill((upper == -torch.inf) | (r == -torch.inf), -torch.inf)


def lower_bounds(
    upper: Tensor, queries: Tensor, prototypes: Tensor, metric: str, delta: float, epsilon: float
) -> Tensor:
    """(Q, n) fp32: what the prototype that attains an upper bound scores at least.

    ``queries`` (Q, 1), ``prototypes`` (Q, n): norms, fp32.
    """
    slack = torch.full_like(upper, 2.0 * delta)
    if metric != "cosine":
        floors = (queries + prototypes) * FLOOR + ABSOLUTE
        slack = 2.0 * (delta * queries * prototypes + floors)
        if metric == "l2":
            slack = 2.0 * slack + 2.0 * epsilon * (queries.square() + prototypes.square())
    lower = upper - (slack * WIDEN + upper.abs() * 2.0**-21)
    return lower.where(upper.isfinite() & (lower == lower), -torch.inf)


def _all(norms: Tensor, value: float) -> Tensor:
    return torch.full_like(norms, value, dtype=torch.float32)
