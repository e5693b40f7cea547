"""The bounds of the Triton screens, sampled: emulated tensor cores against fp64.

The emulation is the worst that _bounds_fp16 allows for: operands rounded or cut, fp16 subnormals
flushed, products of a block aligned to its largest exponent, cut at 23 bits, added, cut again.
"""

import math

import numpy as np
import pytest

from flashmatch.kernels.proofs import fp16 as bounds

PAIRS = 40_000  # per case; 48 cases


def cut(x: np.ndarray, bits: int, exponent: np.ndarray | None = None) -> np.ndarray:
    """Towards zero, to ``bits`` fraction bits below the given (or its own) exponent."""
    if exponent is None:
        exponent = np.frexp(x)[1] - 1
    unit = np.ldexp(1.0, exponent - bits)
    return np.trunc(x / unit) * unit


def accumulate(q: np.ndarray, p: np.ndarray, block: int) -> np.ndarray:
    """Row-wise dot products as a tensor core of the narrowest known kind adds them."""
    total = np.zeros(len(q))
    for c in range(0, q.shape[1], block):
        products = q[:, c : c + block] * p[:, c : c + block]  # exact: 22 bits
        terms = np.concatenate([products, total[:, None]], axis=1)
        # at least the sum of the factors' exponents, which hardware aligns to
        exponent = (np.frexp(np.abs(terms).max(1) + 1e-300)[1] - 1)[:, None]
        total = cut(cut(terms, 23, exponent).sum(1), 23)
    return total


def vectors(kind: str, rows: int, channels: int, rng: np.random.Generator) -> np.ndarray:
    x = rng.standard_normal((rows, channels))
    if kind == "positive":  # no cancellation: every cut goes the same way
        return np.abs(x)
    if kind == "spiky":  # a few coordinates carry the norm; the others near fp16's subnormals
        return x * 2.0 ** rng.integers(-34, 1, x.shape)
    if kind == "midpoints":  # just below a rounding boundary of fp16, all in one direction
        return (1 + 2.0**-11 - 2.0**-20) * 2.0 ** rng.integers(-3, 1, x.shape)
    return x


def fp16_operand(x: np.ndarray) -> np.ndarray:
    norm = np.sqrt((x * x).sum(1, keepdims=True))
    y = (x * (bounds.SCALE / norm)).astype(np.float32).astype(np.float16).astype(np.float64)
    return np.where(np.abs(y) < 2.0**-14, 0.0, y)


@pytest.mark.parametrize("block", [4, 8, 16])
@pytest.mark.parametrize("channels", [1, 16, 100, 768])
@pytest.mark.parametrize("kind", ["gaussian", "positive", "spiky", "midpoints"])
def test_screens_stay_within_delta(kind: str, channels: int, block: int) -> None:
    rng = np.random.default_rng([channels, block, len(kind)])
    rows = PAIRS * 16 // max(16, channels)
    q = vectors(kind, rows, channels, rng)
    p = vectors(kind, rows, channels, rng)
    p[: rows // 2] = q[: rows // 2] + 1e-3 * p[: rows // 2]  # near-duplicates: the top of a list
    q, p = q.astype(np.float32).astype(float), p.astype(np.float32).astype(float)
    q_norm, p_norm = (np.sqrt((x * x).sum(1)) for x in (q, p))
    cosine = (q * p).sum(1) / (q_norm * p_norm)

    width = math.ceil(channels / 64) * 64
    screened = accumulate(fp16_operand(q), fp16_operand(p), block) / bounds.SCALE**2
    assert np.abs(screened - cosine).max() <= bounds.prepared_delta(width)

    unit = cut((q / q_norm[:, None]).astype(np.float32).astype(float), 10)
    screened = accumulate(unit, cut(p, 10), block) / p_norm
    assert np.abs(screened - cosine).max() <= bounds.raw_delta(width, exact_prototypes=False)
    half = p.astype(np.float16).astype(float)
    half[:, 0] += half[:, 0] == 0  # no zero rows
    norm = np.sqrt((half * half).sum(1))
    cosine = (q * half).sum(1) / (q_norm * norm)
    screened = accumulate(unit, half, block) / norm
    assert np.abs(screened - cosine).max() <= bounds.raw_delta(width, exact_prototypes=True)


@pytest.mark.parametrize("channels", [1, 64, 768, 4096])
def test_epsilon_covers_fp32_squares_in_any_order(channels: int) -> None:
    rng = np.random.default_rng(channels)
    x = (rng.standard_normal((2000, channels)) * 2.0 ** rng.integers(-40, 40, (2000, 1))).astype(
        "f"
    )
    exact = (x.astype(float) ** 2).sum(1)
    for order in (x, x[:, ::-1], np.sort(np.abs(x), 1)[:, ::-1]):
        added = np.add.accumulate(order * order, axis=1, dtype=np.float32)[:, -1]
        assert (np.abs(added - exact) <= bounds.raw_epsilon(channels) * exact).all()


def test_the_bounds_are_not_vacuous() -> None:
    """Two thousandths of |q||p| for the widths people use: a screen that excludes almost all."""
    assert bounds.prepared_delta(768) < 1.3e-3
    assert bounds.raw_delta(768, exact_prototypes=True) < 1.4e-3
    assert bounds.raw_delta(768, exact_prototypes=False) < 2.4e-3


def test_ranges_do_not_overflow() -> None:
    """Section 4: the largest intermediate of each epilogue, in fp32."""
    accumulated = bounds.SCALE**2 * 2  # |x'| <= 2, more than enough
    factor = bounds.HUGE / bounds.SCALE
    assert accumulated * factor * 2 * factor < np.finfo(np.float32).max
    assert np.finfo(np.float32).max > 2 * bounds.HUGE**2
    assert np.finfo(np.float32).tiny <= bounds.TINY / bounds.SCALE
    assert 2 * bounds.TINY <= bounds.FLOOR
