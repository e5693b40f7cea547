"""The proof of the bf16 screen: vectors as they are given, or rounded, products rounded to bf16.

Products of two bf16 numbers are exact in fp32, where they are summed: gamma_C |q||p|, fact (1) of
fp32.py. The sum is rounded to bf16, to nearest: relative to what comes out, 2^-8 / (1 - 2^-8).
Units flush subnormal numbers, which is fact (3). With w for what comes out,

    |w - q.p| <= ROUNDOFF |w| + gamma_C |q||p| + floor.

The rest is as in fp32.py: fp32 arithmetic that turns w into a screened value v, which cosine
divides by |q| in the end.

Where vectors are rounded first, q by an error of r |q| and p by one of s |p| at most, w is that of
the rounded ones, and differs by (r (1 + s) + s) |q||p| more. s is 2^-8; r is measured.

A prototype that looks no better than L, in screen units, is at most L + ROUNDOFF |L| + slack, since
x + ROUNDOFF |x| grows with x; for l2, which adds -|p|^2 / 2 to w, with |q| |p| in place of |L|.
"""

import numpy as np
from torch import Tensor

from .fp32 import fp32_slack

ROUNDOFF = 2.0**-8 * (1 + 2.0**-6)
"""Relative, of a number that is rounded, and of a vector."""


def roundoff_of(are_halves: bool) -> float:
    """What rounding vectors to bf16 takes at most, relative to their norms: nothing of such."""
    return 0.0 if are_halves else ROUNDOFF


def error_of(products: Tensor, sizes: Tensor, channels: int) -> Tensor:
    """What ``products`` of bf16 vectors may be off by, which have |q||p| = ``sizes``."""
    slack = fp32_slack("dot", channels, 0.0)
    return products.abs() * ROUNDOFF + sizes * slack.linear + slack.floor


def reach(
    looking_best: np.ndarray,
    query_norms: np.ndarray,
    longest: float,
    metric: str,
    rounded: tuple[np.ndarray, float],
) -> np.ndarray:
    """By how much rounding to bf16 may lower what looks like ``looking_best`` (Q, 1) or less, in
    screen units, with norms (Q, 1) of queries and at most ``longest`` of prototypes. ``rounded``:
    what rounding these vectors took, of queries (Q, 1) and prototypes, relative to their norms."""
    sizes = query_norms * (1 + 2.0**-20) * longest if metric != "cosine" else 1.0
    about = sizes if metric == "l2" else np.abs(looking_best)
    of_queries, of_prototypes = rounded
    return about * ROUNDOFF + (of_queries * (1 + of_prototypes) + of_prototypes) * sizes
