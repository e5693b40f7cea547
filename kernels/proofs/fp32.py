"""The proofs: how far a screen in low precision may lie from the score it stands for.

Notation. u = 2^-24 is fp32's unit roundoff. |x| is the Euclidean norm. C is the number of channels.
"Screen units" are what the matrix product yields and the groups' maxima are taken of:

    metric   screened value v          score s = f(v)
    cosine   (q/|q|) . (p/|p|)         v                 norms clamped from below at 1e-8
    dot      q . p                     v
    l2       q . p - |p|^2 / 2         2 v - |q|^2

f is increasing, so a bound in screen units is a bound on the score. Three facts carry every proof:

(1) Dot product. In any order of summation, with or without fused multiply-add,
    |fl(a.b) - a.b| <= gamma_C sum|a_i b_i| <= gamma_C |a||b|,  gamma_n = n u / (1 - n u).
    (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.1; Cauchy-Schwarz.)
    Where the product rounds its operands first, to relative precision r, add ((1+r)^2 - 1) |a||b|.
(2) Scaling. If b = p (1 + theta_i) elementwise with |theta_i| <= t, then |a.b - a.p| <= t |a||p|.
(3) Underflow. Below 2^-126 an operation may flush to zero: an absolute error of 2^-126 for each,
    times the size of what it is multiplied by.

Rounding is monotone: s <= B implies fl32(s) <= fl32(B). A prototype is excluded only if its bound
lies strictly below a value that rounds to less than the k-th best score, so ties survive.
"""

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from ..contract.metrics import COSINE_EPS

U32 = 2.0**-24
U64 = 2.0**-53
TINY = 2.0**-126
LARGEST = (2 - 2.0**-23) * 2.0**127
"""The largest number of fp32."""
LARGEST_NORM = 1e18
"""Norms up to here keep every fp32 product and sum of a dot or l2 screen below overflow."""
SHORT_NORM, LONG_NORM = 2.0**-40, 2.0**50
"""Of products of shorter vectors, underflow takes more than roundings do; longer ones have
neighbours in size that are out of range."""
MAX_CHANNELS = 1 << 21
"""Up to here the 1.5 C + 16 roundings of an fp32 screen make a relative error below 1/4. With more
channels nothing below is proven of it: bounds are infinite, and exclude nothing."""
MAX_CHANNELS_FP64 = 1 << 40
"""The same of fp64."""

Numbers = TypeVar("Numbers", Tensor, np.ndarray, float)


@dataclass(frozen=True)
class Slack:
    """|screened - exact| <= floor (1 + |q| + |p|) + linear |q||p| + square |p|^2, in screen units.

    For cosine both norms are 1.
    """

    floor: float
    linear: float
    square: float

    def of(self, query_norms: Numbers, prototype_norms: Numbers) -> Numbers:
        """(Q, 1) and (1, G) upper bounds of norms, fp32 or fp64 -> (Q, G); or two numbers."""
        per_query = self.floor * (1 + query_norms)
        slope = self.linear * query_norms + self.floor
        return per_query + slope * prototype_norms + self.square * (prototype_norms**2)


def fp32_slack(metric: str, channels: int, roundoff: float) -> Slack:
    """The slack of a screen by fp32 matrix product.

    ``roundoff`` is the relative precision to which the product rounds its operands (0 for IEEE).
    Beyond MAX_CHANNELS the slack is infinite.
    Counting in units of u, each count rounded up; the 16 covers what is constant: the reciprocal,
    the multiplication by it, casts of fp64 inputs, the fp64 evaluation of the score itself
    (C 2^-53 << u), and the fp32 arithmetic of the comparison.

    cosine  q is normalised in fp64 and cast, or cast, and what comes out is divided by |q| in fp64.
            p's squared norm is summed in fp32 (gamma_C), so its norm is off by C/2 + 1; with the
            product's gamma_C: 1.5 C + 16. Clamping divides by at least 1e-8, twice in the end,
            which scales the underflow up to C 2^-126 / 1e-16: nothing that matters beside u.
    dot     the product's gamma_C, times |q||p|.
    l2      the product as for dot; |p|^2/2 is off by (C + 2) / 2 |p|^2, and adding it rounds once
            more: at most u (|q||p| + |p|^2).
    """
    count = 1.5 * channels + 16
    linear = math.inf
    if channels <= MAX_CHANNELS:
        linear = count * U32 / (1 - count * U32) + (1 + roundoff) ** 2 - 1
    return Slack(
        floor=4 * channels * TINY / (COSINE_EPS if metric == "cosine" else 1.0),
        linear=linear,
        square=linear if metric == "l2" else 0.0,
    )


def fp64_slack(channels: int) -> float:
    """Relative to |q||p| (cosine: 1; l2: (|q| + |p|)^2), what any two fp64 evaluations differ by.

    Each of the two errs by at most gamma_C in its sum and a few roundings besides; l2 by
    |q|^2 - 2 q.p + |p|^2 has three such sums. Beyond MAX_CHANNELS_FP64, infinite.
    """
    return (4 * channels + 64) * U64 if channels <= MAX_CHANNELS_FP64 else math.inf


def norm_bound(norms: Tensor, channels: int) -> Tensor:
    """An upper bound of the exact norms, from norms summed in fp32 (gamma_C / 2, and underflow).

    1 / (1 - x) <= 1 + 2 x for x = (C / 2 + 4) u <= 1 / 2. Beyond MAX_CHANNELS, infinite.
    """
    if channels > MAX_CHANNELS:
        return torch.full_like(norms, torch.inf)
    return _norm_bound(norms, channels)


def largest_norm_bound(norms: Tensor, channels: int) -> float:
    """The same of the largest of ``norms`` (n,): NaN, if one is."""
    return _norm_bound(float(norms.max()), channels) if channels <= MAX_CHANNELS else math.inf


def _norm_bound(norms: Numbers, channels: int) -> Numbers:
    return norms * (1 + (channels + 8) * U32) + math.sqrt(channels * TINY)


def threshold(
    kth_scores: Tensor, query_norms: Tensor, channels: int, metric: str, units: Tensor | float = 1.0
) -> Tensor:
    """Screen-unit values strictly below which a score rounds to less than the k-th best.

    Shapes (Q,): ``kth_scores`` fp32, not NaN; ``query_norms`` fp64; ``units`` fp64, powers of two:
    a score of 1 is 1 / unit in what is screened, and norms are given as screened. t - |t| 2^-23 -
    2^-149 is at most the fp32 number before t; before inf, that is the largest. For l2, |q|^2 has
    its own fp64 error, which matters where p is small. Nothing rounds to less than -inf.
    """
    t = kth_scores.double().clamp(max=LARGEST)
    t = (t - t.abs() * 2.0**-23 - 2.0**-149) / units
    if metric == "l2":
        t = _of_l2(t, query_norms, channels)
    return lowered_to_fp32(t.masked_fill(kth_scores == -torch.inf, -torch.inf))


def sure_threshold(
    wanted: Tensor, query_norms: Tensor, channels: int, metric: str, units: Tensor | float = 1.0
) -> Tensor:
    """Screen-unit values from which on a score is sure to be at least ``wanted``, as ``threshold``
    has them; inf where none is.

    A score of at least ``wanted`` rounds to no less. For l2, with w and f as of ``upper_scores``: a
    score s below t has w <= s + f (|s| + |q|^2), which grows with s, so w < t + f (|t| + |q|^2).
    """
    t = wanted.double() / units
    if metric == "l2":
        t = _of_l2(t, query_norms, channels, 1)
    return raised_to_fp32(t)


def threshold_ahead(
    kth_scores: Tensor, query_norms: Tensor, channels: int, metric: str, units: Tensor | float = 1.0
) -> Tensor:
    """The same for rows behind all of the k best: below it, a score rounds to at most the k-th.

    Half the way to the next fp32 number is at least |t| 2^-25, and 2^-150. What is above the
    largest number is infinite, so that behind k scores of inf nothing can enter; and behind k of
    -inf nothing that rounds to it, too.
    """
    t = kth_scores.double().clamp(-(2.0**128), 2.0**128)
    t = (t + (t.abs() * 2.0**-25).clamp(min=2.0**-150)) / units
    if metric == "l2":
        t = _of_l2(t, query_norms, channels)
    return lowered_to_fp32(t).masked_fill(kth_scores == torch.inf, LARGEST)


def upper_scores(
    upper: np.ndarray, query_norms: np.ndarray, channels: int, metric: str
) -> np.ndarray:
    """What no fp64 evaluation of a score exceeds whose screened value is at most ``upper``, fp64.

    For l2, with w = 2 v - |q|^2 and f = fp64_slack: an evaluation s has s - f (|s| + |q|^2) <= w,
    so that s <= w + 2 f (|w| + |q|^2), of which f |q|^2 (1 - 2 f) are for the roundings here.
    """
    if metric != "l2":
        return upper
    squares = query_norms**2
    w = 2 * upper - squares
    return w + 2 * fp64_slack(channels) * (np.abs(w) + squares)


def early_threshold(
    kth_screened: Tensor, query_norms: Tensor, metric: str, units: Tensor | float = 1.0
) -> Tensor:
    """``threshold`` from screen-unit lower bounds (Q,) of the k-th best score, none of it exact.

    What rounds to less than the k-th score lies below it by more than |s| 2^-24, or 2^-150, and
    |s| <= 2 |v| + |q|^2. What rounds to inf is no less than another such, nor is anything less than
    what may round to -inf.
    """
    t, largest = kth_screened.double(), LARGEST / units
    if metric == "l2":
        squares = query_norms.square()
        score, reach = 2 * t - squares, t.abs() + squares  # at most 0: never inf
    else:
        score, reach = t, t.abs()
        t = t.clamp(max=largest)
    t = t - reach * 2.0**-22 - 2.0**-149 / units
    return lowered_to_fp32(t.masked_fill(score < -largest, -torch.inf))


def _of_l2(scores: Tensor, query_norms: Tensor, channels: int, side: int = -1) -> Tensor:
    """At most the screened values of these scores, in any fp64 evaluation; ``side`` 1: at least."""
    squares = query_norms.square()
    return (scores + squares + side * fp64_slack(channels) * (scores.abs() + squares)) / 2


def lowered_to_fp32(values: Tensor) -> Tensor:
    """fp64 -> fp32, never upwards, and always finite: -inf and NaN become the lowest number."""
    lowered = values - values.abs() * 2.0**-23 - 2.0**-149
    return lowered.nan_to_num(nan=-LARGEST).clamp(-LARGEST, LARGEST).float()


def raised_to_fp32(values: Tensor) -> Tensor:
    """fp64 -> fp32, never downwards: inf beyond the largest number; NaN becomes that."""
    return (-lowered_to_fp32(-values)).masked_fill_(values > LARGEST, torch.inf)
