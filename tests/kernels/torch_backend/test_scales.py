"""Vectors of any size: the same exactness, and a screen that excludes as it does elsewhere."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import METRICS, Problem, assert_exact
from screens import SCREENS, screen_small
from torch import Tensor

from flashmatch import PrototypeBank, topk
from flashmatch.kernels.contract import finite, order
from flashmatch.kernels.contract.chunks import Rows
from flashmatch.kernels.proofs import fp32
from flashmatch.kernels.torch_backend import rescore
from flashmatch.kernels.torch_backend.candidates import Candidates
from flashmatch.kernels.torch_backend.float_screen import FloatScreen, power_of_two, screen_for

SCALES = [1.0, 1e10, 1e15, 1e17, 1e18, 1e19, 1e20, 1e30, 1e36]
SCALES += [1 / scale for scale in SCALES[1:]] + [1e-41]
WIDE = [1e100, 1e145, 1e-100, 1e-150, 1e-165, 1e-300]
BITS = st.integers(0, 2**32 - 1)


def drawn(rows: int, channels: int, scale: float, dtype: torch.dtype, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(rows, channels, generator=generator).double() * scale).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("metric", METRICS)
def test_exact_at_every_size(metric: str, dtype: torch.dtype) -> None:
    scales = SCALES + WIDE * (dtype == torch.float64)
    for seed, scale in enumerate(scales):
        p, q = (drawn(n, 24, scale, dtype, seed) for n in (3000, 20))
        for other in (scale, 1.0, 1 / scale if 1 / scale < 1e38 else 1.0):
            queries = drawn(20, 24, other, dtype, seed + 1) if other != scale else q
            for chunk_rows in (None, 500):
                problem = Problem(queries, [p], 7, metric, None, "raise", chunk_rows)
                assert_exact(topk(queries, p, 7, metric=metric, chunk_rows=chunk_rows), problem)


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("metric", METRICS)
def test_banks_at_every_size(metric: str, screen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    screen_small(monkeypatch)
    for seed, scale in enumerate(SCALES):
        p, q = (drawn(n, 24, scale, torch.float32, seed) for n in (3000, 20))
        bank = PrototypeBank(p, metric=metric, screen=screen)
        for queries in (q, drawn(20, 24, 1.0, torch.float32), q.double() * 1e60):
            expected = topk(queries, p, 7, metric=metric)
            assert all(map(torch.equal, bank.topk(queries, 7), expected)), scale
        assert_exact(bank.topk(q, 7), Problem(q, [p], 7, metric))


@pytest.mark.parametrize("first", [1e-30, 0.0, 1e25])
@pytest.mark.parametrize("metric", METRICS)
def test_rows_of_all_sizes_in_one_set(metric: str, first: float) -> None:
    """Whatever the first rows look like."""
    p = torch.cat([drawn(200, 9, scale, torch.float32) for scale in (first, 1.0, 1e-20, 1e20, 1.0)])
    p = torch.cat([p, drawn(20_000, 9, 1.0, torch.float32, 1)])
    for scale in (1.0, 1e-25, 1e19):
        q = drawn(6, 9, scale, torch.float32, 2)
        mask = torch.rand(6, len(p), generator=torch.Generator().manual_seed(0)) < 0.7
        for each in (None, mask):
            found = topk(q, p, 9, metric=metric, mask=each)
            assert_exact(found, Problem(q, [p], 9, metric, each))


@pytest.mark.parametrize("metric", METRICS)
def test_a_few_ordinary_rows_among_tiny_ones(metric: str) -> None:
    """Their values in the others' unit are beyond fp32."""
    p = drawn(30_000, 3, 1e-44, torch.float32)
    p[::4000] = drawn(8, 3, 1e30, torch.float32)
    for scale in (1.0, 1e-44):
        q = drawn(3, 3, scale, torch.float64, 1)
        problem = Problem(q, [p], 7, metric)
        assert_exact(topk(q, p, 7, metric=metric), problem)


def scored_in_fp64(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pairs were, in each call."""
    counts: list[int] = []
    pairs, dense = rescore.pairs, rescore.dense

    def counted_pairs(q: Tensor, p: Rows, rows: Tensor, *rest: object) -> Tensor:
        counts.append(len(rows))
        return pairs(q, p, rows, *rest)

    def counted_dense(q: Tensor, p: Tensor, metric: str) -> Tensor:
        counts.append(len(q) * len(p))
        return dense(q, p, metric)

    monkeypatch.setattr(rescore, "pairs", counted_pairs)
    monkeypatch.setattr(rescore, "dense", counted_dense)
    return counts


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("metric", METRICS)
def test_a_screen_excludes_at_every_size(
    metric: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is scored in fp64 costs most of the time where it is more than a few rows per query."""
    for scale in (s for s in SCALES if s > 1e-40):
        p, q = drawn(20_000, 32, scale, dtype), drawn(50, 32, scale, dtype, 1)
        with monkeypatch.context() as patch:
            counts = scored_in_fp64(patch)
            topk(q, p, 5, metric=metric)
        assert sum(counts) <= 0.1 * 50 * 20_000, scale


@given(seed=BITS, metric=st.sampled_from(METRICS), exponent=st.integers(-920, 920))
def test_thresholds_hold_in_any_units(seed: int, metric: str, exponent: int) -> None:
    """Below the one nothing rounds to the k-th score, below the other nothing to more."""
    generator = torch.Generator().manual_seed(seed)
    exponent -= exponent % 2  # l2 has the unit of vectors, squared
    units = power_of_two(torch.full((64,), float(exponent)))
    norms = 2.0 ** torch.randint(-30, 30, (64,), generator=generator).double()
    near = torch.randint(-150, 129, (64,), generator=generator)
    sign = -1.0 if metric == "l2" else torch.randint(0, 2, (64,), generator=generator) * 2.0 - 1
    mantissa = 1 + torch.rand(64, generator=generator).double()
    kth = (sign * mantissa * 2.0 ** near.clamp(-149, 127).double()).float()
    kth = torch.where(near == 128, sign * torch.tensor(math.inf), kth)
    scores = kth.double().clamp(-1e39, 1e39)[:, None]
    apart = torch.tensor([0, 2.0**-26, 2.0**-25, 2.0**-24, 2.0**-22, 0.1, 3], dtype=torch.float64)
    apart = torch.cat([apart, -apart])
    scores = torch.cat([scores + scores.abs() * apart, scores + 2.0**-150 * apart], 1)
    values = scores / units[:, None]
    if metric == "l2":
        values = (values + norms.square()[:, None]) / 2
        scores = (2 * values - norms.square()[:, None]) * units[:, None]
    about = norms, 16, metric, units
    rounded, held = scores.float(), values.abs() <= 1e37  # what a screen can hold
    below = values < fp32.threshold(kth, *about).double()[:, None]
    assert (rounded < kth[:, None])[below & held].all()
    behind = values < fp32.threshold_ahead(kth, *about).double()[:, None]
    assert (rounded <= kth[:, None])[behind & held].all()


def test_ahead_means_behind_rows_that_are_there() -> None:
    queries = torch.ones(2, 3)
    candidates = Candidates(queries, 2, "dot")
    keys = order.pack(torch.full((2, 1), math.inf), torch.tensor([[3], [4]]))
    candidates.add_keys(keys)
    assert (candidates.ahead == -fp32.LARGEST).all()  # one of two is still to be found
    candidates.add_keys(keys - 1)
    assert (candidates.ahead == fp32.LARGEST).all()
    assert (candidates.least() == fp32.LARGEST).all()


@pytest.mark.parametrize("metric", METRICS)
def test_usual_vectors_keep_their_units(metric: str) -> None:
    """And their dtype: nothing is widened for them."""
    p, q = drawn(500, 8, 1.0, torch.float32), drawn(5, 8, 1.0, torch.float32)
    q[2] = 0
    screen = screen_for(q, finite.norms(q), Rows([p]), metric)
    assert screen.scale == 1.0
    assert not screen.normalises
    assert (screen.units == 1).all()


@pytest.mark.parametrize("exponent", [-460, -133, -1, 0, 7, 133, 460])
def test_powers_of_two_are_exact(exponent: int) -> None:
    assert float(power_of_two(torch.tensor([float(exponent)]))) == math.ldexp(1.0, exponent)


def test_a_value_stands_for_itself_times_the_unit() -> None:
    for metric, scale in (("dot", 1e30), ("l2", 1e30), ("dot", 1e-30), ("cosine", 1e-30)):
        p, q = drawn(400, 8, scale, torch.float64), drawn(5, 8, scale, torch.float64, 1)
        screen = screen_for(q, finite.norms(q), Rows([p]), metric)
        assert isinstance(screen, FloatScreen)
        assert screen.units[0] != 1
        norms, out = torch.empty(400), torch.empty(5, 400)
        screen.multiply(p, norms, out)
        q_norms, p_norms = finite.norms(q), finite.norms(p)
        exact = q @ p.T
        if metric == "l2":
            exact -= p_norms.square() / 2
        if metric == "cosine":
            exact /= q_norms.clamp(min=1e-8)[:, None] * p_norms.clamp(min=1e-8)
        error = (out.double() - exact / screen.units[:, None]).abs()
        assert (error <= screen.slack_of_groups(norms, 400)).all()
        assert error.max() <= 1e-4
