"""What fp64 evaluations of one pair can give, against evaluations in many orders."""

from collections.abc import Iterable
from fractions import Fraction
from math import inf, isqrt

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import KINDS, METRICS, vectors

from flashmatch.kernels.verify.intervals import _gamma, score_interval


@given(st.integers(0, 2**32), st.sampled_from(KINDS), st.sampled_from(METRICS), st.integers(1, 40))
def test_every_order_of_summation_is_attainable(
    seed: int, kind: str, metric: str, channels: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    q, p = vectors(kind, 2, channels, generator)
    if seed % 2:
        q, p = q.float().double(), p.float().double()
    least, greatest = score_interval(q.tolist(), p.tolist(), metric)
    assert least <= greatest
    for _ in range(4):
        order = torch.randperm(channels, generator=generator)
        assert least <= sequential(q[order].tolist(), p[order].tolist(), metric) <= greatest


def sequential(q: list[float], p: list[float], metric: str) -> float:
    """fp64, one term after the other, in Python's own doubles."""
    if metric == "l2":
        score = -sum_of((a - b) ** 2 for a, b in zip(q, p, strict=True))
    else:
        score = sum_of(a * b for a, b in zip(q, p, strict=True))
        if metric == "cosine":
            score /= max(sum_of(a * a for a in q) ** 0.5, 1e-8)
            score /= max(sum_of(b * b for b in p) ** 0.5, 1e-8)
    return torch.tensor(score, dtype=torch.float64).float().item()


def sum_of(terms: Iterable[float]) -> float:
    total = 0.0  # since 3.12 Python's sum compensates
    for term in terms:
        total += term
    return total


@given(st.integers(0, 2**32), st.sampled_from(METRICS))
def test_what_is_attainable_is_narrow(seed: int, metric: str) -> None:
    """Few fp32 numbers, or the check would be worth nothing."""
    generator = torch.Generator().manual_seed(seed)
    q, p = vectors("gaussian", 2, 64, generator)
    least, greatest = score_interval(q.tolist(), p.tolist(), metric)
    assert greatest - least <= 2.0**-23 * max(abs(least), abs(greatest))


def test_the_bound() -> None:
    u = Fraction(1, 2**53)
    assert _gamma(5) == 5 * u / (1 - 5 * u)
    assert score_interval([1e300], [1e300], "l2") == (0, 0)
    assert score_interval([1e200], [-1e200], "dot") == (-inf, -inf)
    assert score_interval([1e200], [1e200], "dot") == (inf, inf)


@pytest.mark.parametrize("metric", METRICS)
def test_sums_that_cancel(metric: str) -> None:
    """The tiny rest of a large sum depends on the order, by many fp32 steps."""
    generator = torch.Generator().manual_seed(2)
    q, p = torch.randn(2, 20, dtype=torch.float64, generator=generator)
    q, p = torch.cat([q, q]), torch.cat([p, -p])
    least, greatest = score_interval(q.tolist(), p.tolist(), metric)
    found = set()
    for _ in range(50):
        order = torch.randperm(40, generator=generator)
        found.add(sequential(q[order].tolist(), p[order].tolist(), metric))
    assert all(least <= score <= greatest for score in found)
    assert (len(found) > 1) == (metric != "l2")  # squares do not cancel
    assert greatest - least <= 1e-12


def test_where_every_order_is_exact_one_score_is_attainable() -> None:
    assert score_interval([3, 1, 2**24], [1, -3, 0], "dot") == (0, 0)
    assert score_interval([3, 1, 2**24], [1, -3, 0], "cosine") == (0, 0)
    assert score_interval([1, 2**24], [1, 1], "dot") == (2**24, 2**24)  # a midpoint, to even
    assert score_interval([1, 2**12], [0, 0], "l2") == (-(2**24), -(2**24))
    assert score_interval([0, 0], [0, 0], "cosine") == (0, 0)
    assert score_interval([1, 2**60], [1, 1], "dot") == (2**60, 2**60)  # inexact, but no midpoint
    assert score_interval([1, 1, 1], [2**56, 1, -(2**56)], "dot") != (1, 1)  # 0 in some orders


def test_either_side_of_a_boundary() -> None:
    """A hair above the midpoint of 1 and the next fp32; in fp64 the hair is lost."""
    assert score_interval([1, 1, 1], [1, 2.0**-24, 2.0**-80], "dot") == (1, 1 + 2.0**-23)
    assert score_interval([1, 1, 1], [1, 2.0**-24, 2.0**-40], "dot") == (1 + 2.0**-23, 1 + 2.0**-23)


def test_a_cosine_is_inexact_even_where_its_products_are_exact() -> None:
    """Of norm 2^25: the cosine with the first axis is a midpoint, but norms are rounded."""
    prototype, rest = [2**24 + 1], 2**50 - (2**24 + 1) ** 2
    while rest:
        prototype.append(isqrt(rest))
        rest -= prototype[-1] ** 2
    query = [1] + [0] * (len(prototype) - 1)
    assert score_interval(query, prototype, "cosine") == (2**24 / 2**25, (2**24 + 2) / 2**25)
