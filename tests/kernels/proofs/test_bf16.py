"""The bound of products rounded to bf16: it holds, it is tight, and a screen needs it."""

import numpy as np
import pytest
import torch
from problems import METRICS, Problem, assert_exact
from screens import search_in_one_pass

from flashmatch import topk
from flashmatch.kernels.products import halves
from flashmatch.kernels.proofs import bf16
from flashmatch.kernels.torch_backend.cpu import one_pass, plan, shares, shortlist

needs_bf16 = pytest.mark.skipif(
    not halves.are_exact("here"), reason="products of bf16 are not exact enough here"
)


WAYS = pytest.mark.parametrize("way", ["halves", "rounded"])


def cluster(metric: str, way: str, width: float = 0.2) -> Problem:
    """Around one point, so that products round to one number. "rounded": of vectors in fp32."""
    generator = torch.Generator().manual_seed(0)
    p, q = (1 + width * torch.randn(n, 40, generator=generator) for n in (3000, 100))
    dtype = torch.float32 if way == "rounded" else torch.bfloat16
    return Problem(q.to(dtype), [p.to(dtype)], 5, metric)


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


@pytest.mark.parametrize("channels", [1, 7, 64, 1000])
@pytest.mark.parametrize("spread", [0, 30])
def test_rounding_vectors_takes_no_more_than_is_counted_and_may_take_most_of_it(
    channels: int, spread: int
) -> None:
    """Of numbers that lie anywhere, and of such as are rounded up by half a unit nearly."""
    generator = torch.Generator().manual_seed(0)
    exponents = torch.randint(-spread, spread + 1, (channels,), generator=generator)
    for unit in (1.0, 2.0**-20):
        drawn = torch.rand(2, 60, channels, generator=generator, dtype=torch.float64)
        q, p = ((1 + 2.0**-8 + 2.0**-20 + drawn * unit) * exponents.exp2()).float()
        lengths, longest = q.double().norm(dim=1)[:, None], float(p.double().norm(dim=1).max())
        taken = (q.bfloat16() - q.double()).norm(dim=1)[:, None] / lengths
        error = q.bfloat16().double() @ p.bfloat16().double().T - q.double() @ p.double().T
        rounded, nothing = (taken.numpy(), bf16.ROUNDOFF), np.zeros((60, 1))
        reach = torch.from_numpy(bf16.reach(nothing, lengths.numpy(), longest, "dot", rounded))
        assert (error.abs() <= reach).all()
    assert (error > 0.9 * reach).any()


@needs_bf16
@WAYS
@pytest.mark.parametrize("metric", METRICS)
def test_without_it_neighbours_would_be_missed(
    metric: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some products round to more than they are."""
    it = cluster(metric, way)
    search_in_one_pass(monkeypatch, way)
    monkeypatch.setattr(plan, "_spare_of_rounded", lambda rows, k: 0)
    monkeypatch.setattr(one_pass, "GIVE_UP", 1.0)
    check(it)
    monkeypatch.setattr(one_pass.bf16, "reach", lambda looking_best, *about: 0 * looking_best)
    with pytest.raises(AssertionError):
        check(it)


@needs_bf16
@pytest.mark.parametrize("side", ["queries", "prototypes"])
def test_a_neighbour_that_only_rounding_vectors_hides(
    side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 128.98 it looks like all the others at 128.25: rounding the product hides half of that."""
    q, p = torch.ones(1, 64), torch.zeros(3000, 64)
    p[:, 32:], p[:, 32] = 4.0, 4.25
    p[7, 32] = 4.75  # 128.75, which is listed
    p[1500], p[1500, :32], p[1500, 32] = 0.0, 4.0, 0.484375
    (q if side == "queries" else p[1500:1501])[:, :32] *= 1 + 2.0**-8 - 2.0**-16
    it, reach = Problem(q, [p], 1, "dot"), bf16.reach
    search_in_one_pass(monkeypatch, "rounded")
    monkeypatch.setattr(one_pass, "GIVE_UP", 1.0)
    check(it)
    monkeypatch.setattr(bf16, "reach", lambda *a: reach(*a[:4], (0 * a[1], 0.0)))
    with pytest.raises(AssertionError):
        check(it)


@needs_bf16
@WAYS
@pytest.mark.parametrize("metric", METRICS)
def test_what_bf16_leaves_unproven_is_asked_of_fp32(
    metric: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    it = cluster(metric, way)
    search_in_one_pass(monkeypatch, way)
    asked, screened = [], one_pass.screened
    monkeypatch.setattr(shares, "screened", lambda *a: asked.append(a[5:]) or screened(*a))
    check(it)
    assert set(asked) == {(True,), (False,)}


@needs_bf16
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("width", [0.01, 20.0])
def test_bf16_is_given_up_at_once_where_it_tells_nothing_apart(
    metric: str, width: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    search_in_one_pass(monkeypatch, "rounded")
    seen, of_span = [], shortlist._of_span
    monkeypatch.setattr(shortlist, "_of_span", lambda q, *a: seen.append(q.dtype) or of_span(q, *a))
    check(cluster(metric, "rounded", width))
    tasks, in_fp32 = 15, torch.float32 in seen
    assert (seen.count(torch.bfloat16) == tasks) == in_fp32 == (width < 1)


@needs_bf16
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("metric", METRICS)
def test_nothing_is_computed_of_norms_that_are_out_of_range(
    metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of which bf16 has infinite ones."""
    search_in_one_pass(monkeypatch, "rounded")
    it = cluster(metric, "rounded")
    check(it.replace(prototypes=[it.prototypes[0] * 2.0**100]))
    check(it.replace(prototypes=[it.prototypes[0] * 2.0**120]))
