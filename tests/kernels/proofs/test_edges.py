"""Where a proof ends: infinite scores, norms that underflow, very wide vectors, rows not there."""

import dataclasses
import math

import pytest
import torch
from coded import coded
from problems import DTYPES, METRICS, Problem, assert_exact
from screens import SCREENS, needs_int8, screen_small
from torch import Tensor

from flashmatch import PrototypeBank, topk, verify
from flashmatch.kernels.contract import finite
from flashmatch.kernels.contract.chunks import Rows, require_rows
from flashmatch.kernels.contract.request import Request
from flashmatch.kernels.products import pairs
from flashmatch.kernels.proofs import fp32, int8, tf32
from flashmatch.kernels.torch_backend import int8_scan, int8_search, rescore
from flashmatch.kernels.torch_backend.cpu.plan import choose_one_pass
from flashmatch.kernels.torch_backend.plan import choose_plan

EXTREMES = [
    sign * x
    for sign in (1.0, -1.0)
    for x in (0.0, 2.0**-149, 2.0**-126, 1.0, 1 + 2.0**-23, 1e18, fp32.LARGEST, math.inf)
]
NORMS = [0.0, 2.0**-1074, 2.0**-480, 1.0, 1e18, 1e150, 1e200]


def rounded_below(values: Tensor) -> Tensor:
    """The largest fp64 that rounds to less than these fp32 numbers, which are not -inf."""
    before = torch.nextafter(values, torch.tensor(-math.inf)).double()
    after = torch.where(values == math.inf, 2.0**128, values.double())
    before = torch.where(before == -math.inf, -(2.0**128), before)
    half = (before + after) / 2  # exact; which way it rounds, evenness says
    return torch.where(half.float() < values, half, half.nextafter(before))


@pytest.mark.parametrize("metric", METRICS)
def test_thresholds_are_finite_and_exclude_only_what_rounds_to_less(metric: str) -> None:
    kth = torch.tensor(EXTREMES).repeat_interleave(len(NORMS))
    norms = torch.tensor(NORMS, dtype=torch.float64).repeat(len(EXTREMES))
    found = fp32.threshold(kth, norms, 64, metric)
    assert found.isfinite().all()
    sure = fp32.sure_threshold(kth, norms, 64, metric)
    assert (sure >= found).all()  # and so no NaN
    early = fp32.early_threshold(kth, norms, metric)
    assert early.isfinite().all()
    if metric == "l2":
        return  # what |q|^2 adds is tried on pairs, in test_bounds.py
    some = kth > -fp32.LARGEST  # below, fp32 has no value that could be excluded
    assert (found.double() <= rounded_below(kth))[some].all()
    assert (found == -fp32.LARGEST)[~some].all()
    assert (early.double() <= rounded_below(kth))[some & (kth < math.inf)].all()


def test_lowered_numbers_are_finite_and_below() -> None:
    others = [math.nan, 1e300, -1e300, 1e-300, -1e-300, 1e-320, 1 / 3, -1 / 3]
    values = torch.tensor([*EXTREMES, *others], dtype=torch.float64)
    lowered = fp32.lowered_to_fp32(values)
    assert lowered.isfinite().all()
    known = ~values.isnan() & (values > -fp32.LARGEST)
    assert (lowered.double() < values)[known].all()
    assert torch.equal(fp32.raised_to_fp32(-values)[known], -lowered[known])
    assert (fp32.raised_to_fp32(torch.tensor([math.inf, 1e300]).double()) == math.inf).all()


@pytest.mark.parametrize("kind", [1e-30, 1.0, 1e17])
@pytest.mark.parametrize("metric", METRICS)
def test_integer_thresholds_let_no_padding_pass(metric: str, kind: float) -> None:
    generator = torch.Generator().manual_seed(0)
    prototypes = torch.randn(40, 8, generator=generator) * kind
    codes = coded([prototypes], metric, int8_scan.LAYOUT)
    queries = torch.randn(3, 8, generator=generator) * kind
    of_queries = codes.frame.queries(queries, finite.norms(queries))
    for threshold in (*EXTREMES, math.nan):
        found = int8.integer_thresholds(of_queries, codes.bounds, torch.full((3,), threshold))
        assert (found > int8.LOWEST).all(), threshold


def beyond() -> tuple[Tensor, Tensor]:
    """Queries, and prototypes of which the first five score +inf with them, or -inf by l2."""
    generator = torch.Generator().manual_seed(0)
    p = torch.randn(2100, 24, generator=generator)
    q = torch.randn(30, 24, generator=generator).abs()
    p[:5] = p[:5].abs() * 1e30
    q[7] *= 1e12
    return q, p


@pytest.mark.parametrize("k", [1, 3, 5, 7])
@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("metric", METRICS)
def test_infinite_scores(metric: str, screen: str, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    q, p = beyond()
    problem = Problem(q, [p], k, metric)
    screen_small(monkeypatch)
    bank = PrototypeBank(p, metric=metric, screen=screen)
    assert_exact(bank.topk(q, k), problem)
    assert_exact(topk(q, p, k, metric=metric), problem)
    assert_exact(topk(q, p, k, metric=metric, chunk_rows=100), problem)


@needs_int8
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("k", [1, 3, 7])
def test_infinite_scores_of_rows_coded_in_passing(metric: str, k: int) -> None:
    q, p = beyond()
    plan = dataclasses.replace(
        choose_plan(30, 2100, 24, k, 1 << 28, None), screened=True, coded_rows=1024
    )
    found = int8_search.search_while_coding(q, [p], Request(k, metric), plan)
    assert_exact(found, Problem(q, [p], k, metric))


@pytest.mark.parametrize("columns", [[0, 5], [-1, 2], [4, 2**40]])
def test_no_row_is_read_that_is_not_there(columns: list[int]) -> None:
    at = torch.tensor(columns)
    with pytest.raises(RuntimeError, match="a defect"):
        require_rows(at, 5)
    with pytest.raises(RuntimeError, match="a defect"):
        pairs.chosen_dots(torch.ones(2, 3), torch.ones(5, 3), torch.tensor([0, 1]), at)
    for chunks in ([torch.ones(5, 3)], [torch.ones(2, 3), torch.ones(3, 3)]):
        with pytest.raises((IndexError, RuntimeError)):
            Rows(chunks).take(at, torch.empty(2, 3))
    require_rows(torch.tensor([0, 4]), 5)
    require_rows(torch.tensor([], dtype=torch.int64), 0)


def nearly_equal(channels: int, seed: int) -> tuple[Tensor, Tensor]:
    """fp64 queries whose squares underflow, and prototypes whose sums depend on their order."""
    generator = torch.Generator().manual_seed(seed)
    terms = torch.full((64, channels), 2.0**-54, dtype=torch.float64)
    at = torch.randint(channels, (64, 1), generator=generator)
    terms[torch.rand(64, channels, generator=generator) < 0.3] *= -1
    terms.scatter_(1, at, 1 + 2.0**-24)
    return torch.full((2, channels), 2.0**-540, dtype=torch.float64), terms * 2.0**500


@pytest.mark.parametrize("channels", [3, 5, 16, 100])
def test_queries_whose_squares_underflow(channels: int) -> None:
    for seed in range(20):
        q, p = nearly_equal(channels, seed)
        assert torch.allclose(finite.norms(q) * 2.0**540, torch.tensor(channels**0.5).double())
        definition = rescore._definition(q[:1].expand(64, -1).clone(), p.clone(), "dot")
        assert torch.equal(rescore.dense(q, p, "dot")[0], definition)
        pair = torch.zeros(64, dtype=torch.int64), torch.arange(64)
        assert torch.equal(rescore.pairs(q, Rows([p]), *pair, "dot"), definition)
        assert torch.equal(rescore.dense(p, q, "dot")[:, 0], definition)
        expected = topk(q[:1], p, 5, metric="dot")
        for chunk_rows in (1, 7, 33, None):
            found = topk(q, p, 5, metric="dot", chunk_rows=chunk_rows)
            assert torch.equal(found.indices[0], expected.indices[0])


@pytest.mark.parametrize("exponent", [-1074, -1022, -600, -540, -511, -481, -479, -300, 0, 500])
def test_norms_of_any_size(exponent: int) -> None:
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, -1.0]], dtype=torch.float64)
    norms = finite.norms(x * math.ldexp(1.0, exponent))
    assert torch.equal(norms, torch.tensor([5.0, 0.0, 1.0]).double() * math.ldexp(1.0, exponent))


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("metric", METRICS)
def test_squares_that_overflow_are_not_finite(metric: str, channels: int) -> None:
    """With one channel, too, of which torch takes no square."""
    p = torch.zeros(4, channels, dtype=torch.float64)
    p[:, 0] = torch.tensor([1e154, 1e200, -1e155, 2.0], dtype=torch.float64)
    assert finite.norms(p).isfinite().tolist() == [True, False, False, True]
    q = torch.ones(2, channels, dtype=torch.float64)
    for refused in ((q, p), (p, q)):
        with pytest.raises(ValueError, match="a norm beyond fp64 in row"):
            topk(*refused, 1, metric=metric)
    bank = PrototypeBank(p, metric=metric, nonfinite="exclude")
    found = topk(q, p, 4, metric=metric, nonfinite="exclude")
    for matches in (found, bank.topk(q, 4)):
        assert matches.indices[:, 2:].tolist() == [[-1, -1]] * 2
        assert sorted(matches.indices[0, :2].tolist()) == [0, 3]
        assert verify(q, p, matches, metric=metric)


@pytest.mark.parametrize("channels", [1 << 21, (1 << 21) + 1, 11_184_805, 12_000_000])
def test_no_bound_beyond_its_domain(channels: int) -> None:
    within = channels <= fp32.MAX_CHANNELS
    slack = fp32.fp32_slack("cosine", channels, 0.0)
    assert 0 < slack.linear < 0.3 if within else slack.linear == math.inf
    assert fp32.norm_bound(torch.ones(1), channels).isfinite().all() == within
    assert tf32.delta_of(channels, True) == math.inf
    assert tf32.epsilon_of(channels) == math.inf
    assert 0 < fp32.fp64_slack(channels) < 1
    assert fp32.fp64_slack(1 << 41) == math.inf
    for workspace in (1 << 28, 1 << 40):
        plan = choose_plan(256, 1 << 20, channels, 1, workspace, None)
        assert plan.screened == within
        assert not plan.coded
        one_pass = choose_one_pass(256, 1 << 20, channels, 1, workspace, 2)
        assert (one_pass is not None and not one_pass.whole) == (within and workspace > 1 << 30)


def test_codes_are_never_too_wide() -> None:
    for channels, fits in ((int8.MAX_CHANNELS, True), (133_200, False)):
        plan = choose_plan(1024, 1 << 20, channels, 1, 1 << 40, None)
        assert plan.coded == fits
        wide = torch.ones(1, channels)
        for code in (
            lambda x: int8.code_prototypes(x, torch.ones(1), 0.0, 0, "dot"),
            lambda x: int8.code_queries(x.double(), 0.0, torch.zeros(1).double()),
        ):
            if fits:
                code(wide)
            else:
                with pytest.raises(ValueError, match="at most 32768 channels"):
                    code(wide)


@pytest.mark.parametrize("metric", METRICS)
def test_vectors_too_wide_for_a_screen_are_scored_in_fp64(
    metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fp32, "MAX_CHANNELS", 16)
    generator = torch.Generator().manual_seed(0)
    q, p = torch.randn(9, 17, generator=generator), torch.randn(5000, 17, generator=generator)
    assert not choose_plan(9, 5000, 17, 3, 1 << 28, None).screened
    assert_exact(topk(q, p, 3, metric=metric), Problem(q, [p], 3, metric))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", METRICS)
def test_every_extreme_of_every_dtype(metric: str, dtype: torch.dtype) -> None:
    about = torch.finfo(dtype)
    largest = min(about.max, 1e150)  # beyond, squares overflow, which counts as not finite
    numbers = [0.0, -0.0, about.smallest_normal, about.smallest_normal * about.eps, about.eps]
    numbers += [1.0, largest, math.sqrt(largest), 1 / largest]
    values = torch.tensor([*numbers, *(-x for x in numbers)], dtype=torch.float64).to(dtype)
    generator = torch.Generator().manual_seed(0)
    for channels in (1, 3):
        at = torch.randint(len(values), (140, channels), generator=generator)
        q, p = values[at[:20]], values[at[20:]]
        for k in (1, 10, 120):
            problem = Problem(q, [p], k, metric)
            assert_exact(topk(q, p, k, metric=metric), problem)
            for screen in SCREENS:
                assert_exact(PrototypeBank(p, metric=metric, screen=screen).topk(q, k), problem)
