"""Each kernel of the Triton backend against plain torch, through the launchers that ship."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
import triton
import triton.language as tl
from by_triton import prepared_vectors
from problems import KINDS, METRICS, Problem, vectors
from torch import Tensor

from flashmatch.kernels.contract import order
from flashmatch.kernels.contract.reference import scores as exact_scores
from flashmatch.kernels.proofs import fp16
from flashmatch.kernels.triton_backend import float_search, launches
from flashmatch.kernels.triton_backend.chips import Chip
from flashmatch.kernels.triton_backend.device import keys as device_keys
from flashmatch.kernels.triton_backend.device.flags import Flag
from flashmatch.kernels.triton_backend.plan import TritonPlan, choose_plan
from flashmatch.kernels.triton_backend.tiles import TILE_P

pytestmark = pytest.mark.usefixtures("poisoned_empty")


def plan(raw: bool, **changes: object) -> TritonPlan:
    chosen = choose_plan(
        4 if raw else 40, 300, 64, 3, half=False, raw=raw, chip=Chip(90, 132), workspace=2**28
    )
    return dataclasses.replace(chosen, **changes)


def pair(kind: str, channels: int = 64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (
        vectors(kind, 4, channels, generator).float(),
        vectors(kind, 300, channels, generator).float(),
    )


def prepared(
    q: Tensor, p: Tensor, metric: str, chosen: TritonPlan, mask: Tensor | None = None
) -> tuple[float_search.FloatBlock, float_search.Chunk]:
    return prepared_vectors(Problem(q, [p], 3, metric, mask, "raise", None), chosen)


def grouped(table: Tensor, chosen: TritonPlan, fill: float) -> Tensor:
    """(Q, M) -> (Q, groups, members) of strided groups."""
    members = chosen.group
    padded = torch.nn.functional.pad(table, (0, -table.shape[1] % chosen.tile.block_p), value=fill)
    tiles = padded.view(len(table), -1, members, TILE_P // members)
    return tiles.transpose(2, 3).flatten(1, 2)


@triton.jit
def twins_kernel(scores, indices, keys, back, N: tl.constexpr):
    offs = tl.arange(0, N)
    packed = device_keys.pack(tl.load(scores + offs), tl.load(indices + offs))
    tl.store(keys + offs, packed)
    tl.store(back + offs, device_keys.scores_of(tl.load(keys + offs)))


def test_keys_are_the_twins_of_order() -> None:
    tiny = torch.finfo(torch.float32).smallest_normal
    edges = [0.0, 1.0, -1.0, torch.inf, -torch.inf, tiny, -tiny, 3e38, -3e38, 1e-45, -1e-45]
    scores = torch.cat([torch.tensor(edges), torch.randn(64 - len(edges))])
    indices = torch.randint(order.MAX_ROWS, (64,))
    indices[:2] = torch.tensor([0, order.MAX_ROWS - 1])
    keys, back = torch.empty(64, dtype=torch.int64), torch.empty(64)
    twins_kernel[(1,)](scores, indices, keys, back, 64)
    assert torch.equal(keys, order.pack(scores, indices))
    assert torch.equal(back, scores)


def test_empty_has_no_score() -> None:
    @triton.jit
    def kernel(keys, back, N: tl.constexpr):
        offs = tl.arange(0, N)
        tl.store(back + offs, device_keys.scores_of(tl.load(keys + offs)))

    keys, back = order.EMPTY + torch.arange(16), torch.empty(16)
    kernel[(1,)](keys, back, 16)
    assert torch.equal(back, torch.full((16,), -torch.inf))


@pytest.mark.parametrize("metric", METRICS)
def test_prepared_copies(metric: str) -> None:
    q, p = pair("scales", 50)
    p[5], p[6, 3], p[7, 0] = 0, torch.nan, torch.inf
    mask = torch.ones(300, dtype=torch.bool)
    mask[9] = False
    block, chunk = prepared(q, p, metric, plan(raw=False), mask)
    assert block.best.flags.tolist() == [0, 1, 0]
    assert chunk.unit is not None
    assert chunk.bias is not None
    assert chunk.unit.shape == (384, 64)
    assert block.unit.shape == (128, 64)

    unmatchable = torch.tensor([6, 7, 9])
    assert torch.equal(chunk.bias.isneginf().nonzero()[:300, 0][:3], unmatchable)
    assert chunk.bias[300:].isneginf().all()
    assert not chunk.unit[unmatchable].any()
    assert not chunk.unit[300:].any()
    assert not chunk.unit[:, 50:].any()
    assert torch.equal(block.exact[:4, :50], q.double())
    assert not block.exact[4:].any()
    assert torch.allclose(block.norm[:4], q.double().norm(dim=1), rtol=1e-14)

    matchable = torch.ones(300, dtype=torch.bool).index_fill(0, unmatchable, False)
    norm = p.double().norm(dim=1, keepdim=True).clamp(min=1e-8 if metric == "cosine" else 1e-30)
    unit = p.double() / norm * fp16.SCALE
    assert torch.allclose(
        chunk.unit[:300, :50][matchable].double(), unit[matchable], rtol=5e-4, atol=1e-7
    )


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
def test_bounds_hold_and_are_tight(kind: str, metric: str, raw: bool) -> None:
    q, p = pair(kind)
    chosen = plan(raw)
    bounds = float_search.scan_chunk(*prepared(q, p, metric, chosen))[:4]
    best = grouped(exact_scores(q, p, metric), chosen, -torch.inf).amax(2)
    assert bounds.shape == best.shape
    assert (bounds >= best).all()
    assert torch.equal(bounds.isneginf(), best.isneginf())

    delta, epsilon = float_search.slack_of(chosen, 64)
    lengths = [x.double().norm(dim=1) for x in (q, p)]
    reach = grouped(lengths[1][None].expand(4, -1), chosen, 0).amax(2)
    slack = 2 * delta * torch.ones_like(reach)
    if metric != "cosine":
        slack *= 2 * lengths[0][:, None] * reach
        slack += 3 * epsilon * (lengths[0][:, None] ** 2 + reach**2) * (metric == "l2") + 1e-20
        slack += 1e-14 * (lengths[0][:, None] + reach)  # the raw screen's least norm
    real = best.isfinite() & bounds.isfinite()
    assert ((bounds - best).double()[real] <= 1.01 * slack[real]).all()
    longest = torch.maximum(lengths[0][:, None], reach)
    ranged = (longest < fp16.HUGE) & (lengths[0] > fp16.TINY)[:, None]
    ranged &= best.isfinite()
    assert bounds[ranged].isfinite().all()


@pytest.mark.parametrize("raw", [False, True])
def test_norms_beyond_the_range_are_never_excluded(raw: bool) -> None:
    q, p = pair("gaussian")
    p[17] *= 1e25
    for metric, expected in (("cosine", raw), ("dot", True), ("l2", True)):
        block, chunk = prepared(q, p, metric, plan(raw))
        bounds = float_search.scan_chunk(block, chunk)[:4]
        assert block.best.flags[Flag.NONFINITE_PROTOTYPES] == 0
        assert bool(bounds[:, 1].isposinf().all()) == expected  # row 17: group 1 of tile 0
        assert bounds[:, 2:].isfinite()[:, :6].all()


@pytest.mark.parametrize("raw", [False, True])
def test_masks_reach_the_bounds(raw: bool) -> None:
    q, p = pair("gaussian")
    pairs = torch.rand(4, 300, generator=torch.Generator().manual_seed(1)) < 0.05
    chosen = plan(raw)
    for mask in (pairs, pairs[0], pairs.T.contiguous().T):
        bounds = float_search.scan_chunk(*prepared(q, p, "cosine", chosen, mask))[:4]
        table = exact_scores(q, p, "cosine").masked_fill(~mask, -torch.inf)
        best = grouped(table, chosen, -torch.inf).amax(2)
        assert (bounds >= best).all()
        assert torch.equal(bounds.isneginf(), best.isneginf())


def test_words_of_pairs_are_written_for_padding_too() -> None:
    """Scans read the words of whole tiles of queries."""
    q, p = pair("gaussian")
    pairs = torch.rand(4, 300, generator=torch.Generator().manual_seed(1)) < 0.5
    block, chunk = prepared(q, p, "dot", plan(False), pairs)
    bounds = block.scale.new_empty((len(block.unit), 384 // block.plan.group))
    words = launches.pack_mask(block, chunk.originals, bounds)
    bits = (words[:, :, None] >> torch.arange(block.plan.group)) & 1
    assert words.data_ptr() == bounds.data_ptr()
    assert torch.equal(bits[:4].bool(), grouped(pairs, block.plan, False))
    assert not words[4:].any()


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("metric", METRICS)
def test_norms_of_groups_are_written_for_padding_too(metric: str, raw: bool) -> None:
    block, chunk = prepared(*pair("gaussian"), metric, plan(raw))
    float_search.scan_chunk(block, chunk)
    assert chunk.group_norm.isfinite().all()


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", ["gaussian", "scales", "offset", "giant"])
def test_thresholds_are_reached(kind: str, metric: str, raw: bool, monkeypatch) -> None:
    """What threshold_kernel claims from the bounds alone never exceeds the true k-th score."""
    q, p = pair(kind)
    claimed = _spy(monkeypatch, "rescore_kernel", lambda args: args[7].clone())
    chosen = plan(raw)
    block, chunk = prepared(q, p, metric, chosen)
    float_search.search_chunk(block, chunk)
    kth = exact_scores(q, p, metric).sort(descending=True).values[:, 2]
    assert (claimed[0] <= kth).all()
    if kind == "gaussian":
        assert (claimed[0] > kth - 0.2 * kth.abs()).all()
    assert torch.equal(block.best.thresholds, kth)  # and repair_kernel leaves the exact one


def _spy(monkeypatch: pytest.MonkeyPatch, name: str, look: Callable) -> list:
    seen: list = []
    kernel = getattr(launches, name)

    class Spy:
        def __getitem__(self, grid: tuple) -> Callable:
            def launch(*args, **kwargs) -> None:
                seen.append(look(args))
                kernel[grid](*args, **kwargs)

            return launch

    monkeypatch.setattr(launches, name, Spy())
    return seen


@pytest.mark.parametrize("metric", METRICS)
def test_repair_alone_is_a_search(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With nothing rescored, the repair kernel walks the groups and inserts in any order."""

    class Skip:
        def __getitem__(self, grid: tuple) -> Callable:
            return lambda *args, **kwargs: args[8].fill_(order.EMPTY)  # the new keys

    monkeypatch.setattr(launches, "rescore_kernel", Skip())
    q, p = pair("sorted")
    chosen = plan(raw=False, kept=1)
    block, chunk = prepared(q, p, metric, chosen)
    float_search.search_chunk(block, chunk)
    assert block.best.flags[Flag.REPAIRED] == 4
    scores, indices = block.best.ranked(4)
    expected = exact_scores(q, p, metric).sort(descending=True, stable=True)
    assert torch.equal(scores, expected.values[:, :3])
    assert torch.equal(indices, expected.indices[:, :3])
