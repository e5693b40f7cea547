"""The bound of products rounded to bf16: it holds, it is tight, and a screen needs it."""

import pytest
import torch
from problems import METRICS, Problem, assert_exact
from screens import search_in_one_pass

from flashmatch import topk
from flashmatch.kernels.products import halves
from flashmatch.kernels.proofs import bf16
from flashmatch.kernels.torch_backend.cpu import one_pass, shares

needs_bf16 = pytest.mark.skipif(
    not halves.are_exact("here"), reason="products of bf16 are not exact enough here"
)


def cluster(metric: str, width: float, queries: int) -> Problem:
    """Around one point, the narrower the more products round to one number."""
    generator = torch.Generator().manual_seed(0)
    p, q = (1 + width * torch.randn(n, 40, generator=generator) for n in (3000, queries))
    return Problem(q.bfloat16(), [p.bfloat16()], 5, metric)


def check(it: Problem) -> None:
    assert_exact(topk(it.queries, it.prototypes, it.k, metric=it.metric), it)


@pytest.mark.parametrize("channels", [1, 7, 64, 1000])
@pytest.mark.parametrize("spread", [0, 30])
def test_products_lie_within_the_bound_and_come_near_it(channels: int, spread: int) -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(2, 60, channels, generator=generator, dtype=torch.float64)
    exponents = torch.randint(-spread, spread + 1, drawn.shape, generator=generator)
    q, p = (drawn * exponents.double().exp2()).bfloat16().double()
    exact = q @ p.T
    rounded = (q.float() @ p.float().T).bfloat16().double()
    error = (rounded - exact).abs()
    assert (error <= bf16.error_of(rounded, q.norm(dim=1)[:, None] * p.norm(dim=1), channels)).all()
    assert (error > 0.9 * bf16.ROUNDOFF * rounded.abs()).any()


@needs_bf16
@pytest.mark.parametrize("metric", METRICS)
def test_without_it_neighbours_would_be_missed(
    metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some products round to more than they are."""
    it = cluster(metric, 0.2, 100)
    search_in_one_pass(monkeypatch, "halves")
    monkeypatch.setattr(shares, "_GIVE_UP", 1.0)
    check(it)
    monkeypatch.setattr(one_pass.bf16, "reach", lambda looking_best, *about: 0 * looking_best)
    with pytest.raises(AssertionError):
        check(it)


@needs_bf16
@pytest.mark.parametrize("metric", METRICS)
def test_what_bf16_leaves_unproven_is_asked_of_fp32(
    metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    it = cluster(metric, 0.2, 100)
    search_in_one_pass(monkeypatch, "halves")
    asked, screened = [], one_pass.screened
    monkeypatch.setattr(shares, "screened", lambda *a: asked.append(a[5:]) or screened(*a))
    check(it)
    assert asked == [(True,), (False,)]
