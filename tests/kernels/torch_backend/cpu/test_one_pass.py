"""Searches in one pass, every way they go: the oracle's answers, whatever is asked of them."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from drawn import problems
from hypothesis import given
from hypothesis import strategies as st
from problems import DTYPES, KINDS, METRICS, Problem, assert_exact, vectors
from screens import ONE_PASS, search_in_general, search_in_one_pass
from torch import Tensor

from flashmatch import PrototypeBank, topk
from flashmatch.kernels.storage import operands
from flashmatch.kernels.torch_backend.cpu import one_pass, plan, rescoring, shares, shortlist

pytestmark = pytest.mark.usefixtures("poisoned_empty")


@pytest.fixture(params=ONE_PASS, scope="module", autouse=True)
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        search_in_one_pass(patch, request.param)
        patch.setattr(one_pass, "GIVE_UP", 1.0)
        yield request.param


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[one_pass.Answer | None]:
    """What searches in one pass came to."""
    found, search = [], shares.search
    monkeypatch.setattr(shares, "search", lambda *a: found.append(search(*a)) or found[-1])
    return found


def plain(
    kind: str = "gaussian",
    rows: int = 900,
    channels: int = 24,
    k: int = 10,
    metric: str = "cosine",
    queries: int = 17,
    dtype: torch.dtype = torch.float32,
) -> Problem:
    """Half of the queries are prototypes."""
    generator = torch.Generator().manual_seed(3)
    p = vectors(kind, rows, channels, generator).to(dtype)
    q = vectors(kind, queries, channels, generator).to(dtype)
    q[: queries // 2] = p[: queries // 2]
    return Problem(q, [p], k, metric)


def bank_of(it: Problem) -> PrototypeBank:
    return PrototypeBank(it.prototypes, metric=it.metric, nonfinite=it.nonfinite, screen="float")


def check(it: Problem) -> None:
    """Of raw vectors, and of a bank that keeps much of them, or little."""
    assert_exact(topk(it.queries, it.prototypes, it.k, **it.options()), it)
    for most in (1 << 21, 0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(operands, "KEPT_ELEMENTS", most)
            bank = bank_of(it)
            for _ in range(2):
                assert_exact(bank.topk(it.queries, it.k, mask=it.mask), it)


@given(problems())
def test_equals_the_oracle(problem: Problem) -> None:
    check(problem.replace(chunk_rows=None))


@given(problems(largest=150), st.data())
def test_banks_that_lost_and_gained_rows(problem: Problem, data: st.DataObject) -> None:
    bank, rows = bank_of(problem), problem.rows
    bank.topk(problem.queries, min(1, rows))  # what is kept is made
    gone = torch.rand(rows, generator=torch.Generator().manual_seed(1))
    gone = gone < data.draw(st.sampled_from((0.01, 0.3, 0.8)))
    bank.remove(gone.nonzero()[:, 0])
    more = [problem.prototypes[-1]] if data.draw(st.booleans()) else []
    for chunk in more:
        bank.add(chunk, ids=range(rows, rows + len(chunk)))
    left = torch.cat([p.double() for p in problem.prototypes])[~gone]
    count, mask = len(left) + sum(map(len, more)), problem.mask
    if mask is not None:
        shape = (*mask.shape[:-1], count)
        mask = torch.rand(shape, generator=torch.Generator().manual_seed(2)) < 0.5
    k = min(problem.k, count)
    problem = problem.replace(prototypes=[left, *more], mask=mask, k=k)
    assert_exact(bank.topk(problem.queries, k, mask=mask), problem)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", METRICS)
def test_it_is_one_pass_that_searches(
    metric: str, dtype: torch.dtype, way: str, answers: list
) -> None:
    it = plain(metric=metric, dtype=dtype)
    check(it)
    assert len(answers) == 5
    for answer in answers:
        assert answer is not None
        assert answer.unproven is None
        assert len(it.queries) * it.k < answer.rescored < len(it.queries) * it.rows / 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", METRICS)
def test_exact_on_hard_data(kind: str, metric: str) -> None:
    check(plain(kind, metric=metric, rows=1300))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("scale", [1e-20, 1e-8, 1e8, 1e15])
def test_norms_of_any_size(metric: str, scale: float) -> None:
    it = plain(metric=metric)
    check(it.replace(prototypes=[it.prototypes[0] * scale]))
    check(it.replace(queries=it.queries * scale, prototypes=[it.prototypes[0] * scale]))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("width", [1e-4, 1e-7])
def test_clusters_whose_scores_lie_within_a_slack(metric: str, width: float, answers: list) -> None:
    """The shortlist is not enough, and what repairs it is as exact."""
    it = plain(metric=metric, rows=1300)
    check(it.replace(prototypes=[1 + width * it.prototypes[0]]))
    assert all(answer is not None for answer in answers)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("close", [2, 3, 4, 5])
def test_what_is_listed_beside_is_looked_at_before_anything_is_repaired(
    metric: str, close: int, answers: list, way: str
) -> None:
    """Of k = 1, 3 are looked at, and 5 are listed."""
    it = plain(metric=metric, rows=1300, k=1)
    p = 0.1 * it.prototypes[0]
    near = torch.eye(24)[[0] * close]
    near[:, 1] = 0.01 + 1e-8 * torch.arange(close).flip(0)
    p[500 : 500 + close] = 9 * near
    it = it.replace(queries=9.1 * torch.eye(24)[:1].repeat(5, 1), prototypes=[p])
    check(it)
    if way in ("screened", "shared"):
        assert all((answer.unproven is not None) == (close == 5) for answer in answers)
    if way == "screened":
        assert {answer.rescored for answer in answers} == {5 * (5 if close > 3 else 3)}


@pytest.mark.parametrize("metric", METRICS)
def test_everything_ties_and_is_repaired(metric: str, answers: list) -> None:
    it = plain("identical", metric=metric)
    check(it)
    assert all(answer.unproven is not None and answer.unproven.all() for answer in answers)


def test_where_most_fail_all_are_searched_in_general(
    answers: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(one_pass, "GIVE_UP", 0.5)
    check(plain("identical"))
    assert answers == [None] * len(answers)


@pytest.mark.parametrize("k", [1, 2, 15, 224, 225, 226, 899, 900])
@pytest.mark.parametrize("kind", ["gaussian", "duplicates", "integers"])
def test_every_k_up_to_all(kind: str, k: int) -> None:
    check(plain(kind, k=k))


@pytest.mark.parametrize("allowed", [0, 1, 3, 20])
@pytest.mark.parametrize("rows", [2993, 3000])
@pytest.mark.parametrize("metric", METRICS)
def test_fewer_may_match_than_are_looked_at(metric: str, rows: int, allowed: int, way: str) -> None:
    """What groups are padded with must not be read: those rows do not exist."""
    queries = 70 if way == "screened" else 5  # so many that groups pay
    it, generator = plain(rows=rows, metric=metric, queries=queries, k=36), torch.Generator()
    mask = torch.zeros(queries, rows, dtype=torch.bool)
    for row in mask:
        row[torch.randperm(rows, generator=generator)[:allowed]] = True
    check(it.replace(mask=mask))
    check(it.replace(mask=mask[0]))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kept", [1 << 21, 0])
def test_padding_that_is_selected_is_not_read(
    metric: str, kept: int, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which of those at -inf a selection names is torch's affair."""
    monkeypatch.setattr(operands, "KEPT_ELEMENTS", kept)
    select, listed = shortlist._select, shortlist.listed
    padded, seen = [], []

    def named_last(values: Tensor, *how: object) -> tuple[Tensor, Tensor]:
        best, columns = select(values, *how)
        columns[best == -torch.inf] = values.shape[1] - 1
        padded.append(values.shape[1] % 2993 > 0)
        return best, columns

    monkeypatch.setattr(shortlist, "_select", named_last)
    monkeypatch.setattr(one_pass, "listed", lambda *a: seen.append(listed(*a)) or seen[-1])
    it = plain(rows=2993, queries=70, k=36, metric=metric)
    check(it.replace(mask=torch.arange(2993) % 700 == 0))
    assert all(int(found.indices.max()) < 2993 for found in seen)
    assert way not in ("screened", "halves") or all(padded)


@pytest.mark.parametrize("metric", METRICS)
def test_what_cannot_be_certified_is_repaired(
    metric: str, answers: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    slack = one_pass.fp32_slack
    monkeypatch.setattr(one_pass, "fp32_slack", lambda *a: slack(a[0], 1 << 20, 0.0))
    error_of = one_pass.rescoring.error_of
    monkeypatch.setattr(one_pass.rescoring, "error_of", lambda *a: error_of(*a) * 1e14)
    it = plain(metric=metric)
    check(it)
    generator = torch.Generator().manual_seed(0)
    for shape in ((900,), (17, 900)):
        check(it.replace(mask=torch.rand(shape, generator=generator) < 0.5))
    assert all(answer.unproven is not None for answer in answers)


@pytest.mark.parametrize("kept", [1 << 21, 0])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", METRICS)
def test_vectors_that_were_given_are_not_written_to(
    metric: str, dtype: torch.dtype, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operands, "KEPT_ELEMENTS", kept)
    it = plain(metric=metric, dtype=dtype).replace(nonfinite="exclude")
    it.prototypes[0][5], it.queries[3] = torch.nan, torch.inf
    mask = torch.rand(17, 900, generator=torch.Generator().manual_seed(0)) < 0.7
    given = (it.queries, it.prototypes[0], mask)
    before = [tensor.clone() for tensor in given]
    bank = bank_of(it)
    for _ in range(2):
        bank.topk(it.queries, 10, mask=mask)
        bank.topk(it.queries[:2], 10)
        topk(it.queries, it.prototypes, 10, metric=metric, mask=mask, nonfinite="exclude")
        topk(it.queries[:2], it.prototypes[0][6:], 10, metric=metric)
    for old, tensor in zip(before, given, strict=True):
        assert torch.equal(old.nan_to_num(), tensor.nan_to_num())


@pytest.mark.parametrize("metric", METRICS)
def test_what_is_not_finite_is_refused_by_row(metric: str) -> None:
    it = plain(metric=metric)
    bank = bank_of(it)
    it.queries[[2, 13]] = torch.nan
    for find in (bank.topk, lambda q, k: topk(q, it.prototypes, k, metric=metric)):
        with pytest.raises(ValueError, match=r"queries must be finite .* rows 2, 13"):
            find(it.queries, 10)
    it.prototypes[0][7] = torch.inf
    with pytest.raises(ValueError, match=r"prototypes must be finite .* row 7"):
        topk(it.queries[:2], it.prototypes, 10, metric=metric)


@pytest.mark.parametrize("side", ["queries", "prototypes"])
@pytest.mark.parametrize("metric", METRICS)
def test_negated_views_and_any_strides(metric: str, side: str) -> None:
    it = plain(metric=metric)
    x = it.queries if side == "queries" else it.prototypes[0]
    negated = torch.complex(x, -x).conj().imag
    assert negated.is_neg()
    for view in (
        negated,
        x.T.contiguous().T,
        x.repeat_interleave(2, 1)[:, ::2],
        x[:1].expand(17, 24),
    ):
        changed = view if side == "queries" else [view]
        it = it.replace(**{side: changed})
        check(it.replace(k=min(10, it.rows)))


@pytest.mark.parametrize("metric", METRICS)
def test_gradients_are_those_of_a_search_in_general(metric: str) -> None:
    it = plain(metric=metric)

    def gradients() -> tuple[Tensor, ...]:
        q, p = it.queries.clone().requires_grad_(), it.prototypes[0].clone().requires_grad_()
        scores, indices = topk(q, [p[:300], p[300:]], 10, metric=metric)
        assert not indices.requires_grad
        bank = PrototypeBank(p.detach(), metric=metric, screen="float")
        loss = scores.square().sum() + bank.topk(q, 3).scores.square().sum()
        return torch.autograd.grad(loss, (q, p))

    found = gradients()
    with pytest.MonkeyPatch.context() as patch:
        search_in_general(patch)
        assert all(map(torch.equal, found, gradients()))


@pytest.mark.parametrize("kind", ["gaussian", "identical"])
@pytest.mark.parametrize("metric", METRICS)
def test_whatever_mode_torch_is_in(metric: str, kind: str) -> None:
    it = plain(kind, metric=metric, channels=200)
    kept = bank_of(it)
    for mode in (
        torch.inference_mode(),
        torch.no_grad(),
        torch.autocast("cpu", dtype=torch.bfloat16),
        torch.device("meta"),
        doubles_by_default(),
    ):
        fresh = bank_of(it)
        with mode:
            for find in (kept.topk, fresh.topk):
                assert_exact_here(find(it.queries, 10), it)
            assert_exact_here(topk(it.queries, it.prototypes, 10, metric=metric), it)
        queries = it.queries.clone().requires_grad_()
        fresh.topk(queries, 10).scores.sum().backward()  # what it keeps was made in that mode
        assert queries.grad is not None


@contextmanager
def doubles_by_default() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def assert_exact_here(found: tuple[Tensor, Tensor], it: Problem) -> None:
    """In the mode that the oracle is written for."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    with torch.device("cpu"), torch.autocast("cpu", enabled=False):
        assert_exact(found, it)
    torch.set_default_dtype(before)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("precision", ["high", "medium"])
def test_whatever_precision_is_allowed(precision: str, metric: str) -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        check(plain(channels=256, metric=metric))
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("elements", [1, 24 * 100, 1 << 21])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", METRICS)
def test_rows_that_are_widened_tile_by_tile(
    metric: str, dtype: torch.dtype, elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where most of them are looked at."""
    monkeypatch.setattr(rescoring, "_MANY_PAIRS", 0)
    monkeypatch.setattr(plan, "_TILE_ELEMENTS", elements)
    monkeypatch.setattr(plan, "_WIDE_ELEMENTS", 0)
    it = plain("duplicates", rows=500, metric=metric, dtype=dtype, k=40)
    check(it.replace(prototypes=list(it.prototypes[0].split(133))))


CUTS = ["SPAN_ROWS", "_SPAN_PER_SIZE", "BLOCK_SCORES", "_MOST_QUERIES", "_TASK_QUERIES"]


@pytest.mark.parametrize("name", CUTS)
@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("queries", [1, 2, 40])
def test_wherever_it_is_cut(
    name: str, mask: bool, queries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, name, 1)
    it = plain("duplicates", rows=1711, queries=queries, metric="l2")
    generator = torch.Generator().manual_seed(0)
    allowed = torch.rand(queries, 1711, generator=generator) < 0.3 if mask else None
    check(it.replace(mask=allowed))
