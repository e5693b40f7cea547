"""Prototypes coded in passing, against the torch formulas of proofs/int8.py, in fp64."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from by_triton import request_of, vectors_plan
from problems import DTYPES, KINDS, METRICS, Problem, vectors
from torch import Tensor

from flashmatch.kernels.contract import finite
from flashmatch.kernels.contract.metrics import COSINE_EPS
from flashmatch.kernels.proofs import int8_scan
from flashmatch.kernels.proofs.fp32 import LARGEST_NORM, U32
from flashmatch.kernels.triton_backend import vector_search
from flashmatch.kernels.triton_backend.device.flags import Flag
from flashmatch.kernels.triton_backend.device.prototypes import SAMPLE
from flashmatch.kernels.triton_backend.query_block import Best, CodedRows, whole_mask
from flashmatch.kernels.triton_backend.tiles import GROUP, TILE_P

pytestmark = pytest.mark.usefixtures("poisoned_empty")
CPU = torch.device("cpu")
TINY = 1e-15  # floor_of(70), and TINY of the proof, are far below


def drawn(kind: str, rows: int, channels: int) -> Tensor:
    """As problems.vectors; "short": of coordinates whose squares are zero in fp32."""
    x = vectors("gaussian" if kind == "short" else kind, rows, channels,
                torch.Generator().manual_seed(3))  # fmt: skip
    return x * 2.0**-76 if kind == "short" else x


@dataclass(frozen=True)
class Coded:
    """All of some rows as one chunk."""

    rows: CodedRows
    origin: Tensor
    flags: list[int]
    at: Tensor  # (positions,) the row of each

    def by_group(self, x: Tensor, fill: float = 0.0) -> Tensor:
        """(M,) by row -> (groups, members)."""
        padded = torch.nn.functional.pad(x, (0, int(self.at.max()) + 1 - len(x)), value=fill)
        return padded[self.at].view(-1, GROUP, TILE_P // GROUP).transpose(1, 2).flatten(0, 1)


@pytest.fixture
def coded(rows_at) -> Callable[..., Coded]:
    def code(p: Tensor, metric: str, mask: Tensor | None = None) -> Coded:
        queries = torch.ones(17, p.shape[1])
        problem = Problem(queries, [p], 1, metric, mask)
        plan, request = vectors_plan(problem), request_of(problem)
        assert not plan.tf32
        best = Best.empty(queries, 1)
        origin = vector_search.fitted_origin([p], CPU, metric)
        masks = whole_mask(queries, len(p), request)
        run = vector_search.run_of_rows(p, 0, masks, origin, request, plan, best.flags)
        assert run.coded is not None
        return Coded(run.coded, origin, best.flags.tolist(), rows_at(run))

    return code


def moved(p: Tensor, origin: Tensor, metric: str) -> Tensor:
    """y of the proof, (M, C) in fp64."""
    p = p.double()
    if metric == "cosine":
        p = p / finite.norms(p).clamp(min=COSINE_EPS)[:, None]
    return p - origin.double()


def assert_proven(
    coded: Coded, p: Tensor, metric: str, matchable: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Codes and terms bound what they stand for; returns the real |e|, |s Y| and b by group.

    They are -inf of a group without a member that may match, and mean nothing without a bound.
    """
    (count, channels), own, at = p.shape, coded.rows, coded.at
    assert own.codes.dtype == torch.int8
    assert own.codes.min() >= -127
    assert not own.codes[at >= count].any()
    assert not own.codes[:, channels:].any()
    assert sorted(at[at < count].tolist()) == list(range(count))
    codes = torch.empty(count, channels, dtype=torch.float64)
    codes[at[at < count]] = own.codes[at < count, :channels].double()
    assert not codes[~matchable].any()
    bits = (own.words[:, None] >> torch.arange(GROUP)) & 1
    assert torch.equal(bits.bool(), coded.by_group(matchable, False))

    terms = own.group_terms.double()
    scale, error, size, bias = terms.unbind(1)
    assert (scale > 0).all()
    assert not terms.isnan().any()
    is_bounded = size <= LARGEST_NORM
    scales = scale.where(is_bounded, 0)[:, None].expand(-1, GROUP)
    scales = scales.reshape(-1, TILE_P // GROUP, GROUP).transpose(1, 2).flatten()
    decoded = torch.empty_like(codes)
    decoded[at[at < count]] = scales[at < count, None] * codes[at[at < count]]
    y = moved(p.where(matchable[:, None], 0), coded.origin, metric)
    none = -torch.inf
    real = [(y - decoded).norm(dim=1), decoded.norm(dim=1), -0.5 * y.square().sum(1)]
    if metric != "l2":
        real[2] = torch.zeros_like(real[2])
    real = [coded.by_group(x.masked_fill(~matchable, none), none).amax(1) for x in real]
    for bound, value in zip((error, size, bias), real, strict=True):
        assert (bound >= value)[is_bounded].all()
    assert (own.scan_terms[~is_bounded][:, 1] == torch.inf).all()
    expected = int8_scan.scan_terms(own.group_terms)
    assert torch.allclose(own.scan_terms, expected, rtol=2.0**-22, atol=0, equal_nan=True)
    return real[0], real[1], real[2]


TIGHT = ("gaussian", "integers", "offset", "duplicates")
CASES = [
    *((kind, torch.float32) for kind in KINDS if kind not in TIGHT),
    *(("gaussian", dtype) for dtype in DTYPES[1:]),
    ("scales", torch.bfloat16),
    ("scales", torch.float64),
    ("denormals", torch.float64),
    ("offset", torch.float16),
    ("short", torch.float32),
    ("identical", torch.float64),  # of which fp32 has nothing left but the origin
]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("kind", "dtype"), CASES, ids=str)
def test_codes_and_terms_are_proven(kind: str, dtype: torch.dtype, metric: str, coded) -> None:
    p = drawn(kind, 140, 70).to(dtype)
    found = coded(p, metric)
    assert found.flags == [0, 0, 0]
    assert_proven(found, p, metric, torch.ones(140, dtype=torch.bool))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", TIGHT)
def test_terms_are_tight(kind: str, metric: str, coded) -> None:
    """No larger than the group's largest, but for what the proof has for roundings."""
    p = drawn(kind, 140, 70).float()
    found = coded(p, metric)
    every = torch.ones(140, dtype=torch.bool)
    real_error, real_size, real_bias = assert_proven(found, p, metric, every)
    scale, error, size, bias = found.rows.group_terms.double().unbind(1)
    y = moved(p, found.origin, metric)
    largest = found.by_group(y.abs().amax(1)).amax(1)
    lengths = found.by_group(y.norm(dim=1)).amax(1)
    computed = (float(found.origin.double().norm()) + lengths) * (70 + 20) * U32 + TINY
    some = real_error > -torch.inf
    assert some.sum() >= 9
    assert (scale <= 1.001 * largest / 127 + TINY)[some].all()
    assert (error <= 1.001 * real_error + computed)[some].all()
    assert (size <= 1.001 * (lengths + real_error) + TINY)[some].all()
    assert (size <= 1.001 * real_size + 2 * (real_error + computed))[some].all()
    assert (bias <= real_bias / 1.001 + 2 * lengths * computed)[some].all()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_only_what_may_match_is_counted(dtype: torch.dtype, metric: str, coded) -> None:
    """Rows that are masked or not finite make no scale larger, and no code of theirs is left."""
    p = drawn("gaussian", 140, 20).to(dtype)
    giants = torch.tensor([3, 11, 130])
    p[giants] *= 1000
    spoiled = torch.tensor([6, 20, 139])
    p[6, 3], p[20, 0], p[139, 19] = torch.nan, torch.inf, -torch.inf
    mask = torch.rand(140, generator=torch.Generator().manual_seed(1)) < 0.7
    mask[giants], mask[spoiled] = False, True
    fifth = coded(p, metric).at.view(-1, GROUP, TILE_P // GROUP)[0, :, 5]
    mask[fifth] = False
    matchable = mask.clone().index_fill_(0, spoiled, False)
    found = coded(p, metric, mask)
    assert found.flags[Flag.NONFINITE_PROTOTYPES] == 1
    assert_proven(found, p, metric, matchable)
    y = moved(p.where(matchable[:, None], 0), found.origin, metric)
    largest = found.by_group(y.abs().amax(1).where(matchable, 0)).amax(1)
    terms = found.rows.group_terms
    assert (terms[:, 0] <= 1.001 * largest / 127 + TINY).all()
    nothing = ~found.by_group(matchable, False).any(1)
    assert nothing[5]
    assert not nothing[[4, 6]].any()
    assert (terms[nothing, 1:3] < TINY).all()
    assert (terms[nothing, 3] < -9e36).all()


def test_masks_of_pairs_are_left_to_each_query(coded) -> None:
    p = drawn("gaussian", 140, 20).float()
    p[7, 2] = torch.nan
    pairs = torch.rand(17, 140, generator=torch.Generator().manual_seed(1)) < 0.1
    found = coded(p, "dot", pairs)
    assert found.flags[Flag.NONFINITE_PROTOTYPES] == 1
    assert_proven(found, p, "dot", torch.arange(140) != 7)


@pytest.mark.parametrize("metric", METRICS)
def test_flags_are_raised_by_masked_rows_too(metric: str, coded) -> None:
    p = drawn("gaussian", 140, 20)
    mask = torch.arange(140) != 9
    p[9] = 1e200  # whose norm is beyond fp64
    assert coded(p, metric, mask).flags == [0, 1, 0]
    p[9] = 1e150
    assert coded(p, metric, mask).flags == [0, 0, 0]


@pytest.mark.parametrize(
    ("dtype", "size"),
    [(torch.float32, 1e25), (torch.float64, 1e30), (torch.float64, 1e100)],
)
@pytest.mark.parametrize("metric", METRICS)
def test_what_fp32_cannot_tell_bounds_nothing(
    metric: str, dtype: torch.dtype, size: float, coded
) -> None:
    """A giant leaves its own group without a bound, alone in it or not, and no other."""
    p = drawn("gaussian", 140, 20)
    p[5] *= size
    p[5, 3] = 0  # zero times infinity is no number
    p[130] *= size
    p = p.to(dtype)
    every = torch.ones(140, dtype=torch.bool)
    giants = (torch.arange(140) == 5) | (torch.arange(140) == 130)
    for mask in (every, giants):
        found = coded(p, metric, mask)
        assert found.flags == [0, 0, 0]
        assert_proven(found, p, metric, mask)
        unbounded = ~(found.rows.group_terms[:, 2] <= LARGEST_NORM)
        assert torch.equal(unbounded, found.by_group(giants, False).any(1))
        assert (unbounded.sum() == 2) == (metric != "l2")  # which puts both into one group


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pages_are_ordered_by_size(dtype: torch.dtype, coded) -> None:
    """For l2, so that neighbours share a group; what is not finite lies behind all else."""
    p = drawn("integers", 1100, 3).to(dtype)  # many are of one size
    p[70], p[1050] = torch.nan, torch.inf
    if dtype == torch.float64:
        p[3] = 1e60
    found = coded(p, "l2")
    assert found.flags[Flag.NONFINITE_PROTOTYPES] == 1
    matchable = torch.ones(1100, dtype=torch.bool).index_fill_(0, torch.tensor([70, 1050]), False)
    assert_proven(found, p, "l2", matchable)
    size = (p.float() - found.origin).square().sum(1).nan_to_num(torch.inf, torch.inf)
    for page in (slice(0, 1024), slice(1024, 1100)):
        expected = size[page].sort(stable=True).indices + page.start
        groups = found.at[page.start : page.start + 1024].view(-1, GROUP, TILE_P // GROUP)
        assert torch.equal(groups.transpose(1, 2).flatten()[: len(expected)], expected)


@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_other_metrics_leave_rows_where_they_are(metric: str, coded) -> None:
    assert torch.equal(coded(drawn("gaussian", 140, 20), metric).at, torch.arange(256))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", METRICS)
def test_origins_are_lower_medians(metric: str, dtype: torch.dtype) -> None:
    for rows in (1, 2, 63, 64, 65, 300):
        p = drawn("integers", rows, 20).to(dtype)
        p = p.T.contiguous().T if rows == 63 else p
        sample = p[:: max(1, rows // 64)][:64]
        assert len(sample) <= int(SAMPLE.value)
        assert_median(vector_search.fitted_origin([p[:1], p], CPU, metric), sample, metric)


def assert_median(origin: Tensor, sample: Tensor, metric: str) -> None:
    """What is not finite in ``sample`` counts as 0."""
    assert origin.dtype == torch.float32
    if metric != "cosine":
        assert torch.equal(origin, sample.float().nan_to_num(0, 0, 0).median(0).values)
        return
    unit = sample.double() / finite.norms(sample).clamp(min=COSINE_EPS)[:, None]
    expected = unit.nan_to_num(0, 0, 0).median(0).values
    assert torch.allclose(origin.double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("metric", METRICS)
def test_what_is_not_finite_is_no_origin(metric: str, dtype: torch.dtype) -> None:
    p = drawn("gaussian", 9, 20).to(dtype) + 5
    p[0], p[1], p[2], p[3, 7] = torch.nan, torch.inf, -torch.inf, torch.inf
    assert_median(vector_search.fitted_origin([p], CPU, metric), p, metric)
    p[3:8] = torch.nan
    origin = vector_search.fitted_origin([p], CPU, metric)
    assert torch.equal(origin, torch.zeros(20))


@pytest.mark.parametrize("metric", METRICS)
def test_giants_do_not_move_the_origin(metric: str) -> None:
    p = drawn("gaussian", 60, 20).float() + 5
    before = vector_search.fitted_origin([p], CPU, metric)
    for giant in (1e12, 1e25, 1e37):
        p[::7] *= giant
        after = vector_search.fitted_origin([p], CPU, metric)
        assert (after - before).abs().max() < (0.2 if metric == "cosine" else 2)
