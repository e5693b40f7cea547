"""How far apart two fp64 evaluations of one score can lie: a proof, in exact arithmetic.

Let u = 2^-53. An fp64 operation without over- or underflow returns its exact result times 1 + d,
|d| <= u; a product of n such factors or their reciprocals lies within gamma_n = n u / (1 - n u) of
1, and its square root within the bound for n / 2 (Higham, Accuracy and Stability of Numerical
Algorithms, lemma 3.1). Counting the factors on each term, for whatever order of summation, with
fused operations or without (C channels):

dot      q_i p_i            1 product, at most C - 1 additions                              C
l2       (q_i - p_i)^2      1 difference, twice, 1 product, C - 1 additions                 C + 2
cosine   q_i p_i / |q||p|   the dot, C; each norm, C / 2 and 1 for its root; 1 product and
                            1 quotient; 1 for what underflows in a norm >= 1e-8, and for
                            our own norms, which are cut off after 128 binary places         2 C + 5

So an evaluation lies within gamma_n sum|term_i| of the real score. Clamping a norm from below
carries no error further. A product that underflows adds at most 2^-1075.

Some evaluations are exact in every order: where all terms are multiples of a power of two w, and
sum|term_i| <= 2^53 w, so is every partial sum, and a double holds it. (So it does q_i - p_i: with
v the lowest bit of all differences, w = v^2, and |q_i - p_i| <= 2^26.5 v. Where w < 2^-1074 it
does not, but then all scores are 0 in fp32.) This settles ties of integer vectors.
"""

from collections.abc import Sequence
from fractions import Fraction
from math import inf, isqrt

import torch

COSINE_EPS = Fraction(1e-8)


def score_interval(
    query: Sequence[float], prototype: Sequence[float], metric: str
) -> tuple[float, float]:
    """Least and greatest fp32 score that an fp64 evaluation can give two finite vectors."""
    unit = max(x.as_integer_ratio()[1] for x in (*query, *prototype))  # 1/unit divides every one
    q, p = _integers(query, unit), _integers(prototype, unit)
    if metric == "l2":
        terms = [-((a - b) ** 2) for a, b in zip(q, p, strict=True)]
    else:
        terms = [a * b for a, b in zip(q, p, strict=True)]
    score, size = Fraction(sum(terms), unit**2), Fraction(sum(map(abs, terms)), unit**2)
    lowest = min((term & -term for term in terms if term), default=0)  # the largest w, times unit^2
    exact = size * unit**2 <= 2**53 * lowest
    underflow = Fraction(0 if exact else len(terms), 2**1074)
    if metric == "cosine":
        error = _gamma(2 * len(q) + 5) * (abs(score) if exact else size)
        scale = _norm(q, unit) * _norm(p, unit)
        score, error, underflow = score / scale, error / scale, underflow / scale
    else:
        error = 0 if exact else _gamma(len(q) + 2 * (metric == "l2")) * size
    return _fp32(score - error - underflow), _fp32(score + error + underflow)


def _integers(vector: Sequence[float], unit: int) -> list[int]:
    """The vector times ``unit``, a power of two that makes it whole."""
    ratios = (x.as_integer_ratio() for x in vector)
    return [numerator * (unit // denominator) for numerator, denominator in ratios]


def _gamma(n: int) -> Fraction:
    return Fraction(n, 2**53 - n)


def _norm(integers: Sequence[int], unit: int) -> Fraction:
    square = sum(x * x for x in integers)
    return max(Fraction(isqrt(square << 256), unit << 128), COSINE_EPS)


def _fp32(x: Fraction) -> float:
    """Rounded to fp64, which every evaluation is, then to fp32. Both roundings are monotone."""
    try:
        return torch.tensor(float(x), dtype=torch.float64).float().item()
    except OverflowError:
        return inf if x > 0 else -inf
