"""A bank within a threshold, and against itself, on every screen."""

import math
from collections.abc import Iterator
from functools import partial, reduce

import pytest
import torch
from drawn import problems
from hypothesis import given
from hypothesis import strategies as st
from in_range import assert_same, expected, thresholds
from labelled import labels_of
from problems import METRICS, Problem, vectors
from screens import CODED, SCREENS, multiply_by_fbgemm, needs_fbgemm, screen_small
from torch import Tensor

from flashmatch import PrototypeBank
from flashmatch.kernels.contract import reference
from flashmatch.kernels.torch_backend.ranges import range_search

pytestmark = pytest.mark.usefixtures("poisoned_empty")


@pytest.fixture(
    params=[*SCREENS, pytest.param("fbgemm", marks=needs_fbgemm)], scope="module", autouse=True
)
def screen(request: pytest.FixtureRequest) -> Iterator[str]:
    patch = pytest.MonkeyPatch()
    screen_small(patch)
    if request.param == "fbgemm":
        multiply_by_fbgemm(patch)
    yield "int8" if request.param == "fbgemm" else request.param
    patch.undo()


def altered(problem: Problem, screen: str, gone: Tensor) -> tuple[PrototypeBank, Problem]:
    """A bank that was added to and lost rows, and the problem of what is left, by position."""
    widest = reduce(torch.promote_types, (c.dtype for c in problem.prototypes))
    first, *others = (chunk.to(widest) for chunk in problem.prototypes)
    options = {"metric": problem.metric, "nonfinite": problem.nonfinite}
    bank = PrototypeBank(first, screen=screen, progress=False, **options)
    for chunk in others:
        bank.add(chunk)
    rows = torch.cat([first, *others])
    bank.remove(gone.nonzero()[:, 0])
    mask = None if problem.mask is None else problem.mask[..., ~gone]
    return bank, problem.replace(prototypes=[rows[~gone]], mask=mask, chunk_rows=None)


SHARES = st.sampled_from((0.0, 0.01, 0.1, 0.5, 1.0))


@given(problems(), SHARES, st.sampled_from((None, 1, 3)), st.booleans(), st.sampled_from((0, 0.3)))
def test_equals_the_oracle(
    screen: str, problem: Problem, share: float, limit: int | None, sort: bool, lost: float
) -> None:
    gone = torch.rand(problem.rows, generator=torch.Generator().manual_seed(1)) < lost
    bank, left = altered(problem, screen, gone)
    threshold = thresholds(left, share) if left.rows else 0.0
    found = bank.within(left.queries, threshold, mask=left.mask, limit=limit, sort=sort)
    assert_same(found, expected(left, threshold, limit, sort))
    if limit is None:
        counts = bank.count_within(left.queries, threshold, mask=left.mask)
        assert torch.equal(counts, found.offsets.diff())


LABELS = st.dictionaries(st.sampled_from(("same", "different")), st.integers(1, 40))
"""Of how many labels each condition is, by its name."""


def labelled(count: int, conditions: dict[str, int]) -> tuple[dict[str, list[int]], Tensor]:
    """Labels of so many rows, and which pairs may match: of two rows, and by the labels."""
    labels = {
        name: labels_of(0, count, names, seed)[1].tolist()
        for seed, (name, names) in enumerate(conditions.items())
    }
    pairs = {name: (own, own) for name, own in labels.items()}
    apart = ~torch.eye(count, dtype=torch.bool)
    return labels, apart & reference.label_mask(count, count, **pairs) if pairs else apart


@given(problems(largest=120), SHARES, st.sampled_from((None, 1, 3)), st.booleans(), LABELS)
def test_pairs_and_neighbors(
    screen: str,
    problem: Problem,
    share: float,
    limit: int | None,
    sort: bool,
    conditions: dict[str, int],
) -> None:
    gone = torch.rand(problem.rows, generator=torch.Generator().manual_seed(1)) < 0.2
    bank, left = altered(problem.replace(mask=None), screen, gone)
    left = left.replace(queries=left.prototypes[0])
    labels, apart = labelled(left.rows, conditions)
    threshold = thresholds(left, share)
    for once, mask in ((True, apart.triu()), (False, apart)):
        found = bank.pairs(threshold, once=once, limit=limit, sort=sort, **labels)
        assert_same(found, expected(left.replace(mask=mask), threshold, limit, sort))
    k = min(4, max(left.rows - 1, 0))
    scores, indices = bank.neighbors(k, **labels)
    wanted = expected(left.replace(mask=apart), -math.inf, k) if k else None
    assert scores.shape == indices.shape == (left.rows, k)
    if wanted is not None:
        assert torch.equal(indices[indices >= 0], wanted.indices)
        assert torch.equal(scores[indices >= 0], wanted.scores)
        assert torch.equal((indices >= 0).sum(1), wanted.offsets.diff())
        assert bool((scores[indices < 0] == -math.inf).all())


@pytest.mark.parametrize("metric", METRICS)
def test_most_is_counted_without_being_scored(metric: str, screen: str) -> None:
    generator = torch.Generator().manual_seed(0)
    q, p = (vectors("gaussian", n, 16, generator).float() for n in (30, 4000))
    bank = PrototypeBank(p, metric=metric, screen=screen, progress=False)
    threshold = thresholds(Problem(q, [p], 1, metric), 0.3)
    counts = bank.count_within(q, threshold)
    assert int(counts.sum()) > 30 * 4000 * 0.2
    assert bank.stats.rows_rescored < 100
    assert torch.equal(counts, bank.within(q, threshold).offsets.diff())


@pytest.mark.parametrize("metric", METRICS)
def test_duplicates_are_neighbors_and_pairs(metric: str, screen: str) -> None:
    """Of a row, and of one that is nearer to others than to itself, by scalar products."""
    rows = torch.tensor([[1.0, 0.0], [1.0, 0.0], [9.0, 0.0], [1.0, 0.0]])
    bank = PrototypeBank(rows, metric=metric, screen=screen)
    found = bank.neighbors(2)
    near = {"cosine": [[1, 2], [0, 2], [0, 1], [0, 1]], "l2": [[1, 3], [0, 3], [0, 1], [0, 1]]}
    wanted = near.get(metric, [[2, 1], [2, 0], [0, 1], [2, 0]])
    assert found.indices.tolist() == wanted
    if metric == "l2":
        pairs = bank.pairs(0.0)
        assert list(zip(pairs.queries.tolist(), pairs.indices.tolist(), strict=True)) == [
            (0, 1),
            (0, 3),
            (1, 3),
        ]


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_few_rows(rows: int, screen: str) -> None:
    bank = PrototypeBank(torch.ones(rows, 3), screen=screen)
    assert bank.pairs(0.5).offsets.shape == (rows + 1,)
    assert bank.pairs(0.5, once=False).indices.tolist() == [[], [], [1, 0]][rows]
    assert bank.neighbors(max(rows - 1, 0)).indices.tolist() == [[], [[]], [[1], [0]]][rows]
    for k in (max(rows, 1), -1):
        with pytest.raises(ValueError, match="k must be "):
            bank.neighbors(k)
    for join in (partial(bank.neighbors, 0), partial(bank.pairs, 0.5)):
        with pytest.raises(ValueError, match=rf"same must have shape \({rows},\), one for each of"):
            join(same=[1] * (rows + 1))
        with pytest.raises(TypeError, match=r"different must be integers; got torch.float32"):
            join(different=torch.ones(rows))
    with pytest.raises(TypeError, match="once must be a bool; got int"):
        bank.pairs(0.5, once=1)
    with pytest.raises(ValueError, match="threshold must not be NaN"):
        bank.pairs(math.nan)


@pytest.mark.parametrize("conditions", [{}, {"same": 3}, {"different": 50}])
def test_many_queries_of_itself(
    conditions: dict[str, int], screen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Block by block of its rows, each against those behind it."""
    from flashmatch.kernels import self_join

    monkeypatch.setattr(self_join, "_QUERY_ROWS", 37)
    rows = vectors("gaussian", 300, 8, torch.Generator().manual_seed(0)).float()
    bank, problem = PrototypeBank(rows, screen=screen), Problem(rows, [rows], 1, "cosine")
    labels, apart = labelled(len(rows), conditions)
    for once, mask in ((True, apart.triu()), (False, apart)):
        wanted = expected(problem.replace(mask=mask), 0.9)
        assert_same(bank.pairs(0.9, once=once, **labels), wanted)
    wanted = expected(problem.replace(mask=apart), -math.inf, 3)
    assert torch.equal(bank.neighbors(3, **labels).indices.flatten(), wanted.indices)


@pytest.mark.skipif(CODED == "float", reason="integer products are not exact here")
def test_codes_are_what_is_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = vectors("gaussian", 9000, 32, torch.Generator().manual_seed(0)).float()
    bank, taken = PrototypeBank(rows, screen="int8"), []
    scan = range_search.RangeInt8Scan.scan
    monkeypatch.setattr(
        range_search.RangeInt8Scan, "scan", lambda *a: taken.append(a[1]) or scan(*a)
    )
    found = bank.within(rows[:20], 0.8)
    assert taken
    stats = bank.stats
    assert (stats.queries, stats.certified, stats.repaired) == (20, 20, 0)
    assert len(found.indices) <= stats.rows_rescored < 0.02 * 20 * 9000
    assert 9000 * 32 <= stats.bytes_screened <= 20 * 10_240 * 32


def test_positions_are_of_one_state(screen: str) -> None:
    """What others remove meanwhile is not missing, nor are positions of it those of the next."""
    rows = vectors("gaussian", 500, 8, torch.Generator().manual_seed(0)).float()
    bank = PrototypeBank(rows, screen=screen)
    wanted = bank.within(rows, 0.5)
    take = bank._state.collection.positions
    bank._state.collection.positions = lambda found: (bank.remove(0), take(found))[1]  # pyright: ignore
    assert_same(bank.within(rows, 0.5), wanted)
    assert len(bank) == 499
