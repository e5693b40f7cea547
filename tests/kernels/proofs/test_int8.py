"""The proof of the int8 screen, tried on millions of pairs in arithmetic wider than its own."""

import functools
from decimal import Decimal, localcontext
from typing import NamedTuple

import numpy as np
import pytest
import torch
from features import FEATURES, features
from problems import KINDS, METRICS
from torch import Tensor

from flashmatch.kernels.codes.frame import ROTATION_PAYS, Frame, fitted_frame
from flashmatch.kernels.codes.layout import Layout
from flashmatch.kernels.codes.pages import Codes
from flashmatch.kernels.codes.rotation import Rotation
from flashmatch.kernels.contract.finite import norms
from flashmatch.kernels.contract.metrics import COSINE_EPS
from flashmatch.kernels.proofs import int8
from flashmatch.kernels.proofs.fp32 import LARGEST_NORM, U32
from flashmatch.kernels.storage.clean_rows import screen_norms

pytestmark = pytest.mark.usefixtures("poisoned_empty")

ALL_KINDS = tuple(dict.fromkeys((*KINDS, *FEATURES)))
CHANNELS = (1, 3, 77)
LAYOUT = Layout(span=64, group=8)
Wide = np.ndarray
"""np.longdouble: 64 bits of precision on x86, and never fewer than fp64's 53."""


def wide(x: Tensor | np.ndarray) -> Wide:
    return np.asarray(x.numpy() if isinstance(x, Tensor) else x).astype(np.longdouble)


def lengths(x: Wide) -> Wide:
    return np.sqrt((x * x).sum(1))


@functools.lru_cache
def matrix(rotation: Rotation | None, channels: int) -> Wide:
    """The rotation from its definition, as a dense matrix: what is rotated is x @ matrix."""
    out = np.eye(channels, dtype=np.longdouble)
    if rotation is None:
        return out
    hadamard = np.ones((1, 1), dtype=np.longdouble)
    while 2 * len(hadamard) <= channels:
        hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])
    hadamard /= np.sqrt(np.longdouble(len(hadamard)))
    for signs, part in zip(
        wide(rotation.signs), (slice(None, len(hadamard)), slice(-len(hadamard), None)), strict=True
    ):
        out = out * signs
        out[:, part] = out[:, part] @ hadamard
    return out


def screened(q: Tensor, p: Tensor, metric: str) -> Wide:
    """v of all pairs, from its definition."""
    a, b = wide(q), wide(p)
    if metric == "cosine":
        a = a / np.maximum(lengths(a), COSINE_EPS)[:, None]
        b = b / np.maximum(lengths(b), COSINE_EPS)[:, None]
    products = a @ b.T
    return products - lengths(b) ** 2 / 2 if metric == "l2" else products


class Case(NamedTuple):
    """Queries and prototypes on both sides of the proof."""

    queries: Tensor
    prototypes: Tensor
    frame: Frame
    x: Wide  # in the frame
    y: Wide
    scale: Tensor
    rows: int8.CodedRows
    coded: int8.CodedQueries

    @property
    def values(self) -> Wide:
        return screened(self.queries, self.prototypes, self.frame.metric)

    @property
    def products(self) -> Wide:
        return wide(self.coded.codes) @ wide(self.rows.codes).T

    def bounds(self) -> Wide:
        """a s X.Y + |d||sY| + |x||e| + b + c, of all pairs."""
        a, d, x, c = (wide(t)[:, None] for t in self.coded[1:])
        s, e, size, b = (wide(t) for t in (self.scale, *self.rows[1:]))
        return a * s * self.products + d * size + x * e + b + c


def tame(kind: str, rows: int, channels: int, generator: torch.Generator) -> Tensor:
    """fp32 vectors that the screen takes."""
    x = features(kind, rows, channels, generator)
    scale = 1e-2 * LARGEST_NORM / norms(x).clamp(min=1e-2 * LARGEST_NORM)
    return (x * scale[:, None]).float()


def coded(prototypes: Tensor, frame: Frame) -> tuple[Tensor, Tensor, int8.CodedRows]:
    """In the frame, in fp32; their scales; and their codes. As in banks, eight share a scale."""
    vectors = frame.prototypes(prototypes, screen_norms(prototypes))
    largest = torch.stack([group.abs().max() for group in vectors.split(8)])
    scale = int8.scale_of(largest).repeat_interleave(8)[: len(vectors)]
    return (
        vectors,
        scale,
        int8.code_prototypes(vectors, scale, frame.origin_norm, frame.roundings, frame.metric),
    )


def case_of(queries: Tensor, prototypes: Tensor, frame: Frame) -> Case:
    _, scale, rows = coded(prototypes, frame)
    turn, origin = matrix(frame.rotation, prototypes.shape[1]), wide(frame.origin)
    x, y = wide(queries), wide(prototypes)
    if frame.metric == "cosine":
        x, y = (v / np.maximum(lengths(v), COSINE_EPS)[:, None] for v in (x, y))
    x = (x - origin if frame.metric == "l2" else x) @ turn
    coded_queries = frame.queries(queries, norms(queries))
    return Case(queries, prototypes, frame, x, (y - origin) @ turn, scale, rows, coded_queries)


def case(kind: str, metric: str, rotated: bool, channels: int, seed: int = 0) -> Case:
    """Queries like the prototypes, some among them, and some along their coding errors."""
    generator = torch.Generator().manual_seed(seed)
    prototypes = tame(kind, 240, channels, generator)
    origin = fitted_frame(prototypes, metric).origin
    rotation = Rotation(channels, seed, origin.device) if rotated else None
    frame = Frame(metric, origin, rotation)
    vectors, scale, rows = coded(prototypes[::20], frame)
    along = vectors - scale[:, None] * rows.codes
    along = along @ torch.from_numpy(matrix(rotation, channels).T.astype(np.float32))
    along = along / along.abs().amax(1, keepdim=True).clamp(min=1e-30)
    along = along * prototypes[::20].abs().amax(1, keepdim=True)
    if metric == "l2":
        along = along + origin
    queries = [tame(kind, 24, channels, generator), prototypes[:12], along, -along]
    return case_of(torch.cat(queries), prototypes, frame)


@pytest.fixture(params=ALL_KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=METRICS)
def metric(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("rotated", [False, True])
def test_no_value_exceeds_its_bound(kind: str, metric: str, rotated: bool) -> None:
    """20 kinds x 3 metrics x 2 x 3 widths of 60 x 240 pairs: 5 million. And term by term."""
    for channels in CHANNELS:
        it = case(kind, metric, rotated, channels, seed=channels)
        assert (it.values <= it.bounds()).all()
        assert_terms_are_large_enough(it)


def assert_terms_are_large_enough(it: Case) -> None:
    x_codes, y_codes = wide(it.coded.codes), wide(it.rows.codes)
    assert max(np.abs(x_codes).max(), np.abs(y_codes).max()) <= 127
    coded_y = wide(it.scale)[:, None] * y_codes
    assert (wide(it.rows.error) >= lengths(it.y - coded_y)).all()
    assert (wide(it.rows.size) >= lengths(coded_y)).all()
    is_l2 = it.frame.metric == "l2"
    bias = -(lengths(it.y) ** 2) / 2 if is_l2 else np.zeros(len(it.y))
    assert (wide(it.rows.bias) >= bias).all()
    coded_x = wide(it.coded.scale)[:, None] * x_codes
    assert (wide(it.coded.error) >= lengths(it.x - coded_x)).all()
    assert (wide(it.coded.norm) >= lengths(it.x)).all()
    origin, q = wide(it.frame.origin), wide(it.queries)
    if it.frame.metric == "cosine":
        q = q / np.maximum(lengths(q), COSINE_EPS)[:, None]
    shift = q @ origin - (origin @ origin / 2 if is_l2 else 0)
    assert (wide(it.coded.shift) >= shift).all()


@pytest.mark.parametrize("rotated", [False, True])
def test_no_pair_that_reaches_a_threshold_is_excluded(
    kind: str, metric: str, rotated: bool
) -> None:
    """Thresholds at values that occur, and one ulp to either side, for whole pages of codes."""
    infinity = torch.tensor(torch.inf)
    for channels in CHANNELS:
        it = case(kind, metric, rotated, channels, seed=7 * channels)
        count = len(it.prototypes)
        codes = Codes(it.frame, LAYOUT, count, channels)
        codes.write(0, it.prototypes, screen_norms(it.prototypes))
        places = (~codes.unmatchable).nonzero()[:, 0]
        assert torch.equal(codes.rows_at(places).sort().values, torch.arange(count))
        values = it.values[:, codes.rows_at(places).numpy()]
        products = (it.coded.codes.double() @ codes.codes[places, :channels].double().T).numpy()
        page = torch.div(places, LAYOUT.span, rounding_mode="floor")
        group = page * LAYOUT.groups + places % LAYOUT.groups
        for nth in range(0, count, 41):
            at = torch.from_numpy(values[:, nth].astype(np.float32))
            for threshold in (at, at.nextafter(infinity), at.nextafter(-infinity)):
                least = int8.integer_thresholds(it.coded, codes.bounds, threshold)
                reaches = values >= wide(threshold)[:, None]
                assert (products >= least[:, group].numpy())[reaches].all()


def test_thresholds_exclude_what_they_can() -> None:
    """A bound that excluded nothing would pass every test above."""
    it = case("gaussian", "cosine", False, 64)
    likely = slice(0, 36)  # the queries behind were made to have large bounds
    bounds = int8.group_bounds(it.scale, *it.rows[1:])
    tenth = torch.from_numpy(np.sort(it.values, 1)[:, -10].astype(np.float32))
    least = int8.integer_thresholds(it.coded, bounds, tenth)
    assert (it.products >= wide(least))[likely].mean() < 0.1
    out_of_reach = torch.full_like(tenth, torch.finfo(torch.float32).max)
    least = int8.integer_thresholds(it.coded, bounds, out_of_reach)
    assert not (it.products >= wide(least)).any()
    least = int8.integer_thresholds(it.coded, bounds, -out_of_reach)
    assert (it.products >= wide(least)).all()
    assert (least > int8.LOWEST).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bound_in_eighty_digits(metric: str, dtype: torch.dtype) -> None:
    """No rounding at all on the test's side; and prototypes that fp32 does not hold."""
    it = case("integers", metric, True, 5)
    generator = torch.Generator().manual_seed(1)
    nudge = 1 + 1e-9 * torch.randn(it.prototypes.shape, generator=generator, dtype=torch.float64)
    it = case_of(it.queries, (it.prototypes * nudge).to(dtype)[:60], it.frame)
    queries, prototypes = (
        [[Decimal(v) for v in row] for row in rows.tolist()] for rows in (it.queries, it.prototypes)
    )
    a, d, x, c = ([Decimal(v) for v in t.tolist()] for t in it.coded[1:])
    s, e, size, b = ([Decimal(v) for v in t.tolist()] for t in (it.scale, *it.rows[1:]))
    with localcontext(prec=80):
        for i, q in enumerate(queries):
            for j, p in enumerate(prototypes):
                products = Decimal(int((it.coded.codes[i].int() * it.rows.codes[j].int()).sum()))
                bound = a[i] * s[j] * products + d[i] * size[j] + x[i] * e[j] + b[j] + c[i]
                assert _value(q, p, metric) <= bound


def _value(q: list[Decimal], p: list[Decimal], metric: str) -> Decimal:
    value = sum(s * t for s, t in zip(q, p, strict=True))
    squares = sum(t * t for t in p)
    if metric == "l2":
        return value - squares / 2
    if metric == "cosine":
        q_norm = sum(s * s for s in q).sqrt()
        return value / max(q_norm, Decimal(COSINE_EPS)) / max(squares.sqrt(), Decimal(COSINE_EPS))
    return value


def along_the_errors(prototypes: Tensor, scale: float) -> Case:
    """Queries that codes hold exactly (d = 0), along what the codes of the prototypes lack."""
    channels = prototypes.shape[1]
    frame = Frame("dot", torch.zeros(channels), None)
    rounded = (prototypes.double() / scale).round() * scale
    error = prototypes.double() - rounded
    queries = (error * (127 / error.abs().amax(1, keepdim=True))).round().float()
    it = case_of(queries, prototypes, frame)
    scales = torch.full((len(prototypes),), scale)
    rows = int8.code_prototypes(prototypes.float(), scales, 0.0, 0, "dot")
    return it._replace(scale=scales, rows=rows)


def test_half_the_error_would_be_too_little() -> None:
    generator = torch.Generator().manual_seed(0)
    it = along_the_errors(features("gaussian", 200, 64, generator).float(), 5 / 127)
    assert (it.values <= it.bounds()).all()
    mutant = it._replace(rows=it.rows._replace(error=it.rows.error / 2))
    assert not (it.values <= mutant.bounds()).all()


def test_without_the_terms_for_rounding_it_would_be_too_little(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In fp32 these prototypes are their codes; in truth they lie off by 2^-26 of themselves."""
    generator = torch.Generator().manual_seed(0)
    prototypes = features("codes", 200, 64, generator) * (1 + 2.0**-26)
    it = along_the_errors(prototypes, 1.0)
    assert (it.values <= it.bounds()).all()
    assert torch.equal(it.rows.codes.double(), prototypes.round())
    for name, value in (("U32", 0.0), ("RAISE", 1.0), ("TINY", 2.0**-1000)):
        monkeypatch.setattr(int8, name, value)
    monkeypatch.setattr(int8, "floor_of", lambda channels: 0.0)
    mutant = along_the_errors(prototypes, 1.0)
    assert not (mutant.values <= mutant.bounds()).all()


def test_stored_bounds_round_upwards() -> None:
    generator = torch.Generator().manual_seed(0)
    magnitudes = 2.0 ** torch.empty(4, 200_000, dtype=torch.float64).uniform_(
        -140, 60, generator=generator
    )
    scale, error, size, bias = magnitudes[0].float(), magnitudes[1], magnitudes[2], -magnitudes[3]
    bias.clamp_(max=-(2.0**-126))  # a smaller one is off by far more than 2^-149 already
    s, e, sy, b = int8.group_bounds(scale, error, size, bias).double().T
    assert torch.equal(s, scale.double())
    assert (e >= error).all()
    assert (sy >= size).all()
    assert (b >= bias).all()
    largest = magnitudes[0].float()
    assert (int8.scale_of(largest).double() * 127 >= largest).all()


@pytest.mark.parametrize("channels", [1, 2, 3, 64, 77, 512, 768])
def test_rotations_are_orthogonal(channels: int) -> None:
    rotation = Rotation(channels, 5, torch.device("cpu"))
    turned = rotation(torch.eye(channels, dtype=torch.float64))
    identity = torch.eye(channels, dtype=torch.float64)
    assert (turned @ turned.T - identity).abs().max() < 1e-12
    generator = torch.Generator().manual_seed(0)
    for kind in ("gaussian", "heavy", "onehot", "tiny", "large"):
        x = features(kind, 300, channels, generator)
        before = x.clone()
        assert (norms(rotation(x)) / norms(x) - 1).abs().max() < 1e-12
        assert torch.equal(x, before)
        x = x.float()
        exact = x.double() @ turned
        off = norms(rotation(x).double() - exact)
        assert (off <= rotation.roundings * U32 * norms(x) + 2.0**-126).all()


def test_rotations_are_the_same_for_the_same_seed() -> None:
    x = torch.randn(5, 77, generator=torch.Generator().manual_seed(0))
    turned = [Rotation(77, seed, x.device)(x) for seed in (3, 3, 4)]
    assert torch.equal(turned[0], turned[1])
    assert not torch.equal(turned[0], turned[2])


@pytest.mark.parametrize(("kind", "pays"), [("heavy", True), ("gaussian", False), ("codes", False)])
def test_a_rotation_is_used_where_it_pays(kind: str, pays: bool, metric: str) -> None:
    generator = torch.Generator().manual_seed(0)
    prototypes = features(kind, 1000, 256, generator).float()
    frame = fitted_frame(prototypes, metric)
    assert (frame.rotation is not None) == pays
    if pays:
        plain = Frame(metric, frame.origin, None)
        errors = [case_of(prototypes[:1], prototypes, f).rows.error.mean() for f in (frame, plain)]
        assert errors[0] < ROTATION_PAYS * errors[1]


def test_what_codes_hold_exactly_is_not_rotated(metric: str) -> None:
    prototypes = features("onehot", 1000, 256, torch.Generator().manual_seed(0)).float()
    frame = fitted_frame(prototypes, metric)
    plain = Frame(metric, frame.origin, None)
    error, plain_error = (coded(prototypes, f)[2].error.mean() for f in (frame, plain))
    assert error <= plain_error


def test_a_giant_does_not_move_the_origin(metric: str) -> None:
    generator = torch.Generator().manual_seed(0)
    prototypes = features("relu", 1000, 32, generator).float()
    before = fitted_frame(prototypes, metric).origin
    prototypes[17] *= 1e12
    after = fitted_frame(prototypes, metric).origin
    assert (after - before).abs().max() <= 0.05 * before.abs().max() + 1e-6


def test_a_sample_with_nothing_finite_gives_a_plain_frame(metric: str) -> None:
    for sample in (torch.full((5, 3), torch.nan), torch.empty(0, 3)):
        frame = fitted_frame(sample, metric)
        assert frame.rotation is None
        assert frame.origin.tolist() == [0, 0, 0]
