"""Why the TF32 screen may exclude: every inequality it relies on, and the numbers made of them.

Notation. q, p are the vectors as given, |.| the 2-norm, C the channels, x the cosine q.p /
(|q||p|), s the real score, S = fp32(fp64(s)) the contract's score. The screen returns u >= s (as
evaluated in fp64, too); rounding to fp32 is monotone, so u < T implies S < T: exclusion is strict,
and a tie with T survives.

1. Operands. Tensor cores multiply q/|q| and p in TF32. They may drop the low 13 bits rather than
   round: relative rho = 2^-10 + 2^-23 each, and none on p when its dtype (fp16, bf16) fits TF32.
   |q'.p' - q.p| <= (rho_q + rho_p + rho_q rho_p) |q||p|   (Cauchy-Schwarz).

2. Accumulation. A tensor core aligns the products of a block to the largest exponent, cuts them
   there and adds; the narrowest known alignment keeps 23 fraction bits (Fasi, Higham, Mikaitis,
   Pranesh, "Numerical behavior of NVIDIA tensor cores", PeerJ CS 2021; later chips keep more).
   Each cut loses at most 2^-23 sum|q_i p_i|. There are C products, at most C/4 accumulators that
   join a block, and C/4 block results cut once more at 2^-22: in all at most
   (C + C/4) 2^-23 + (C/4) 2^-22 < C 2^-22 times sum|q_i p_i| <= |q'||p'|.
   An fp32 FMA chain (2^-24 per step) is inside the same bound.

3. Everything around it, in fp32 (norms of queries rounded from fp64, at most five operations):
   2^-21, and the fp64 evaluation of s itself, (C + 8) 2^-52. Together below 2^-20 for
   C <= MAX_CHANNELS. Squared norms of prototypes are sums of fp32 in any order: relative
   (C + 8) 2^-23 holds n^2 (error C 2^-24), squares flushed below 2^-126 (C 2^-26 where
   n^2 >= 2^-100), square root and division (2^-22 each).

So  |x' - x| <= delta,  delta = (1) + (2) + (3), and the upper bounds are
     cosine   x' + delta
     dot      |q||p| (x' + delta)
     l2       2 |q||p| (x' + delta) - (1 - epsilon)(|p|^2 + |q|^2)
with epsilon = (C + 8) 2^-23 + 2^-20 for the norms, the rounding of the two sums and the fp64
evaluation, which is at most (C + 3) 2^-52 (|p|^2 + |q|^2).

4. Range. Vectors shorter than TINY are screened as zero; s moves by at most |q| TINY (dot),
   2 |q| TINY (l2), which FLOOR |q| and FLOOR |p| cover, FLOOR = 4 TINY. Vectors longer than HUGE,
   and queries shorter than TINY under dot, get the bound +inf: they are never excluded. Within
   that range no fp32 step overflows (2 * 2^61 * 2^61 < 2^127), and what fp32 flushes to zero is
   below 2^-124 or a factor 2^-141 of a norm; ABSOLUTE = 2^-120 and FLOOR cover it.

What is made of all this stands here in torch, and in triton_backend/device/tf32_scan.py and
prepare.py, which the selfcheck holds against it.
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


@cache
def delta_of(channels: int, exact_prototypes: bool) -> float:
    """delta over ``channels`` channels; ``exact_prototypes`` where their dtype fits TF32."""
    if channels > MAX_CHANNELS:
        return math.inf
    rho_q = 2.0**-10 + 2.0**-23
    rho_p = 0.0 if exact_prototypes else rho_q
    operands = rho_q + rho_p + rho_q * rho_p
    accumulation = channels * 2.0**-22 * (1 + rho_q) * (1 + rho_p)
    return _raised_to_fp32(operands + accumulation + 2.0**-20 + epsilon_of(channels))


@cache
def epsilon_of(channels: int) -> float:
    """Relative error of an fp32 squared norm and of what is made of it."""
    if channels > MAX_CHANNELS:
        return math.inf
    return (channels + 8) * 2.0**-23 + 2.0**-20


def _raised_to_fp32(number: float) -> float:
    """The next number of fp32, which is how kernels are handed it."""
    rounded = np.float32(number)
    return float(rounded if rounded >= number else np.nextafter(rounded, np.float32(math.inf)))


def query_factors(
    norms: Tensor, metric: str, delta: float, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(Q,) each: what finite queries are divided by (fp64); scale and bias of them (fp32)."""
    tiny, huge = norms < TINY, norms > HUGE
    if metric == "cosine":
        return norms.clamp(min=COSINE_EPS), _all(norms, 1.0), _all(norms, delta)
    scale = norms.masked_fill(tiny | huge, 0)
    bias = norms * FLOOR + ABSOLUTE
    unbounded = huge
    if metric == "l2":
        scale, bias = scale * 2, bias + (norms.square() * epsilon - norms.square())
    else:
        unbounded = unbounded | (tiny & (norms > 0))
    bias = bias.masked_fill(unbounded, torch.inf)
    return norms.masked_fill(tiny, 1), scale.float(), bias.float()


def _all(norms: Tensor, value: float) -> Tensor:
    return torch.full_like(norms, value, dtype=torch.float32)
