"""The bounds of the TF32 screen, sampled: emulated tensor cores against fp64.

The emulation is the worst that proofs/tf32.py allows for: operands cut to 10 bits, products of a
block aligned to its largest exponent, cut at 23 bits, added, cut again.
"""

import numpy as np
import pytest
import torch
from problems import METRICS

from flashmatch.kernels.contract.metrics import COSINE_EPS
from flashmatch.kernels.proofs import tf32

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
    if kind == "spiky":  # a few coordinates carry the norm
        return x * 2.0 ** rng.integers(-34, 1, x.shape)
    if kind == "cut":  # what TF32 drops is as much as can be, and always in one direction
        return (1 + 2.0**-9 - 2.0**-20) * 2.0 ** rng.integers(-3, 1, x.shape)
    return x


def drawn(kind: str, channels: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Queries and prototypes, as many, of fp32 values in fp64."""
    rng = np.random.default_rng([channels, seed, len(kind)])
    rows = PAIRS * 16 // max(16, channels)
    q, p = (vectors(kind, rows, channels, rng) for _ in range(2))
    p[: rows // 2] = q[: rows // 2] + 1e-3 * p[: rows // 2]  # near-duplicates: the top of a list
    return q.astype(np.float32).astype(float), p.astype(np.float32).astype(float)


def lengths(x: np.ndarray) -> np.ndarray:
    return np.sqrt((x * x).sum(1))


@pytest.mark.parametrize("block", [4, 8, 16])
@pytest.mark.parametrize("channels", [1, 16, 100, 768])
@pytest.mark.parametrize("kind", ["gaussian", "positive", "spiky", "cut"])
def test_screen_stays_within_delta(kind: str, channels: int, block: int) -> None:
    q, p = drawn(kind, channels, block)
    unit = cut((q / lengths(q)[:, None]).astype(np.float32).astype(float), 10)
    half = p.astype(np.float16).astype(float)
    half[:, 0] += half[:, 0] == 0  # no zero rows
    for prototypes, operands in ((p, cut(p, 10)), (half, half)):
        cosine = (q * prototypes).sum(1) / (lengths(q) * lengths(prototypes))
        screened = accumulate(unit, operands, block) / lengths(prototypes)
        delta = tf32.delta_of(channels, exact_prototypes=prototypes is half)
        assert np.abs(screened - cosine).max() <= delta


@pytest.mark.parametrize("channels", [16, 64, 768])
def test_cut_operands_need_most_of_delta(channels: int) -> None:
    """Were the prototypes taken to be exact, the bound would not hold."""
    q, p = drawn("cut", channels, 8)
    unit = cut((q / lengths(q)[:, None]).astype(np.float32).astype(float), 10)
    cosine = (q * p).sum(1) / (lengths(q) * lengths(p))
    screened = accumulate(unit, cut(p, 10), 8) / lengths(p)
    assert np.abs(screened - cosine).max() > tf32.delta_of(channels, exact_prototypes=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_fit_tf32(dtype: torch.dtype) -> None:
    bits = torch.arange(-(2**15), 2**15).short().view(dtype)
    values = bits[bits.isfinite() & (bits != 0)].double().numpy()
    assert (cut(values, 10) == values).all()


@pytest.mark.parametrize("channels", [1, 64, 768, 4096])
def test_epsilon_covers_fp32_squares_in_any_order(channels: int) -> None:
    rng = np.random.default_rng(channels)
    scales = 2.0 ** rng.integers(-40, 40, (2000, 1))
    x = (rng.standard_normal((2000, channels)) * scales).astype("f")
    exact = (x.astype(float) ** 2).sum(1)
    for order in (x, x[:, ::-1], np.sort(np.abs(x), 1)[:, ::-1]):
        added = np.add.accumulate(order * order, axis=1, dtype=np.float32)[:, -1]
        assert (np.abs(added - exact) <= tf32.epsilon_of(channels) * exact).all()


def test_the_bounds_are_not_vacuous() -> None:
    """Two thousandths of |q||p| for the widths people use: a screen that excludes almost all."""
    assert tf32.delta_of(768, exact_prototypes=True) < 1.4e-3
    assert tf32.delta_of(768, exact_prototypes=False) < 2.4e-3


def test_ranges_do_not_overflow() -> None:
    """Section 4: the largest intermediate of each epilogue, in fp32."""
    about = np.finfo(np.float32)
    delta = tf32.delta_of(tf32.MAX_CHANNELS, exact_prototypes=False)
    assert (1 + 2 * delta) * tf32.HUGE * 2 * tf32.HUGE < about.max
    assert about.max > 2 * tf32.HUGE**2
    assert about.tiny <= tf32.TINY
    assert 2 * tf32.TINY <= tf32.FLOOR


NORMS = [0.0, 2.0**-1074, 2.0**-130, 2.0**-101, tf32.TINY, 1e-9, 0.3, 0.7, 1.0, 3e5, 1e18]
NORMS += [tf32.HUGE, tf32.HUGE * (1 + 2.0**-52), 1e30, 1e150]


@pytest.mark.parametrize("metric", METRICS)
def test_factors_make_bounds_of_real_scores(metric: str) -> None:
    """In the formulas of the proof, with products that are as far below as they may be.

    No query of any norm scores above them, with prototypes of any norm up to HUGE; only those that
    the range leaves out have no bound.
    """
    delta, epsilon = tf32.delta_of(64, False), tf32.epsilon_of(64)
    q, p = torch.meshgrid(
        torch.tensor(NORMS, dtype=torch.float64),
        torch.tensor([n for n in NORMS if n <= tf32.HUGE], dtype=torch.float64),
        indexing="ij",
    )
    divisor, scale, bias = tf32.query_factors(q, metric, delta, epsilon)
    assert divisor.dtype == torch.float64
    assert scale.dtype == bias.dtype == torch.float32
    eps = torch.tensor(COSINE_EPS, dtype=torch.float64)
    unit = q / divisor  # the norm of what is multiplied
    assert (unit <= 1).all()
    unit = unit.where((q >= tf32.TINY) | (metric == "cosine"), 0.0)  # may be flushed
    for cosine in (1.0, 0.3, 0.0, -1.0):
        # As low as a product may be, were it not for what delta has for roundings around it.
        screened = unit * (cosine - delta + 2.0**-20) * p.where(p >= tf32.TINY, 0.0)
        dot = q * p * cosine
        if metric == "cosine":
            score = dot / (q.maximum(eps) * p.maximum(eps))
            bound = screened / p.maximum(eps) * scale + bias
        elif metric == "dot":
            score, bound = dot, (screened + delta * p) * scale + bias
        else:
            score = 2 * dot - q.square() - p.square()
            shift = p * tf32.FLOOR - p.square() * (1 - epsilon)
            bound = (screened + delta * p) * scale + shift + bias
        ranged = (q <= tf32.HUGE) & ((q >= tf32.TINY) | (q == 0) | (metric != "dot"))
        assert torch.equal(bias.isfinite(), ranged | (metric == "cosine"))
        assert not (bound < score).any(), (bound - score).min()
        slack = 2 * delta * (1 if metric == "cosine" else 2 * q * p)
        slack = slack + 4 * tf32.FLOOR * (q + p) + 2 * tf32.ABSOLUTE
        slack = slack + 3 * epsilon * (q.square() + p.square()) * (metric == "l2")
        assert (bound <= score + slack)[ranged].all()


def test_no_bound_beyond_its_domain() -> None:
    for of_channels in (lambda n: tf32.delta_of(n, True), tf32.epsilon_of):
        assert 0 < of_channels(tf32.MAX_CHANNELS) < 0.1
        assert of_channels(tf32.MAX_CHANNELS + 1) == np.inf
