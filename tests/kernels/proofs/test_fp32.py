"""The proofs of the fp32 screen, tried on random and adversarial pairs; and the order's key."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import KINDS, METRICS, vectors
from torch import Tensor

from flashmatch.kernels.contract import metrics, order
from flashmatch.kernels.contract.finite import norms
from flashmatch.kernels.proofs import fp32


def screened(q: Tensor, p: Tensor, metric: str, roundoff: float) -> tuple[Tensor, Tensor]:
    """Screened values as the torch backend takes them, and their exact counterparts in fp64."""
    q_norms, p_norms = norms(q), norms(p)
    fp32_norms = torch.linalg.vector_norm(p, dim=1)
    if metric == "cosine":
        clamped = q_norms.clamp(min=metrics.COSINE_EPS)[:, None]
        a, b = (q.double() / clamped).float(), p
        exact = (q.double() / clamped) @ (
            p.double() / p_norms.clamp(min=metrics.COSINE_EPS)[:, None]
        ).T
    else:
        a, b, exact = q, p, q.double() @ p.double().T
    if roundoff:
        a, b = a.bfloat16().float(), b.bfloat16().float()
    value = a @ b.T
    if metric == "cosine":
        value = value / fp32_norms.clamp(min=metrics.COSINE_EPS)
    if metric == "l2":
        value = torch.addmm(fp32_norms.square() * -0.5, a, b.T)
        exact = exact - p_norms.square() / 2
    return value, exact


@pytest.mark.parametrize("roundoff", [0.0, 2.0**-7])
@pytest.mark.parametrize("metric", METRICS)
@given(
    seed=st.integers(0, 2**32),
    kinds=st.tuples(st.sampled_from(KINDS), st.sampled_from(KINDS)),
    channels=st.sampled_from((1, 2, 7, 64, 300)),
)
def test_no_pair_lies_farther_than_its_slack(
    seed: int, kinds: tuple[str, str], channels: int, metric: str, roundoff: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    q, p = (vectors(kind, 100, channels, generator).float() for kind in kinds)
    value, exact = screened(q, p, metric, roundoff)
    slack = fp32.fp32_slack(metric, channels, roundoff)
    one = torch.ones(1, 1)
    q_bound = one if metric == "cosine" else (norms(q).float() * 1.0001)[:, None]
    fp32_norms = torch.linalg.vector_norm(p, dim=1)
    p_bound = one if metric == "cosine" else fp32.norm_bound(fp32_norms, channels)[None]
    tame = torch.isfinite(value)  # what is not tame is never screened
    error = (value.double() - exact).abs()
    assert (error <= slack.of(q_bound, p_bound).double().expand_as(error))[tame].all()


@given(seed=st.integers(0, 2**32), exponent=st.integers(-40, 40))
def test_norm_bound_is_above_the_norm(seed: int, exponent: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    p = (vectors("gaussian", 50, 33, generator) * 2.0**exponent).float()
    assert (fp32.norm_bound(torch.linalg.vector_norm(p, dim=1), 33) >= norms(p)).all()


@pytest.mark.parametrize("metric", METRICS)
@given(seed=st.integers(0, 2**32))
def test_thresholds_bound_the_kth_score_from_both_sides(seed: int, metric: str) -> None:
    """Scores of values just under a threshold round to less than the k-th score, those of values
    from the sure one on to no less, and hardly any value is between."""
    generator = torch.Generator().manual_seed(seed)
    query_norms = 10 ** torch.empty(200, dtype=torch.float64).uniform_(-5, 5, generator=generator)
    value = torch.randn(200, dtype=torch.float64, generator=generator) * query_norms
    if metric == "l2":
        value = torch.minimum(value, query_norms.square() / 2)  # a squared distance is not negative

    def score(v: Tensor) -> Tensor:
        return 2 * v - query_norms.square() if metric == "l2" else v

    kth = score(value).float()
    limits = (
        fp32.threshold(kth, query_norms, 100, metric),
        fp32.early_threshold(value.float(), query_norms, metric),
    )
    for limit in limits:
        below = torch.nextafter(limit, torch.tensor(-torch.inf)).double()
        assert (score(below).float() < kth).all()
    sure = fp32.sure_threshold(kth, query_norms, 100, metric)
    assert (score(sure.double()).float() >= kth).all()
    size = value.abs() + query_norms.square() * (metric == "l2")
    assert ((sure - limits[0]).double() <= 1e-6 * size + 1e-40).all()


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=30))
def test_keys_order_by_score_then_index(values: list[float]) -> None:
    scores = torch.tensor(values) + 0.0
    indices = torch.arange(len(values)) * 1000003 % (order.MAX_ROWS - 1)
    keys = order.pack(scores, indices)
    assert (keys > order.EMPTY).all()
    expected = sorted(zip((-scores).tolist(), indices.tolist(), strict=True))
    unpacked = order.unpack(keys.sort(descending=True).values)
    assert list(zip((-unpacked[0]).tolist(), unpacked[1].tolist(), strict=True)) == expected


def test_an_empty_key_is_no_match() -> None:
    scores, indices = order.unpack(torch.tensor([order.EMPTY]))
    assert (scores.item(), indices.item()) == (-torch.inf, -1)
