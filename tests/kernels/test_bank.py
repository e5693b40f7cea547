"""A bank finds what the oracle finds, bit for bit, and says what that took."""

import math

import pytest
import torch
from features import FEATURES, features
from problems import DTYPES, KINDS, METRICS, Problem, assert_exact, vectors
from programs import in_threads
from screens import CODED, SCREENS, needs_int8
from torch import Tensor

from flashmatch import topk
from flashmatch.kernels import BankStats, PrototypeBank
from flashmatch.kernels.codes.layout import Layout
from flashmatch.kernels.products import choice
from flashmatch.kernels.proofs.fp32 import LARGEST_NORM
from flashmatch.kernels.torch_backend import int8_scan

SPAN = int8_scan.LAYOUT.span
pytestmark = pytest.mark.usefixtures("poisoned_empty", "screened_in_pieces")


def problem(
    kind: str = "gaussian",
    rows: int = 3000,
    channels: int = 24,
    k: int = 10,
    metric: str = "cosine",
    *,
    queries: int = 20,
    dtype: torch.dtype = torch.float32,
    mask: str = "none",
    seed: int = 0,
) -> Problem:
    """Queries like the prototypes, half of them prototypes themselves."""
    generator = torch.Generator().manual_seed(seed)
    prototypes = features(kind, rows, channels, generator).to(dtype)
    fresh = features(kind, queries - queries // 2, channels, generator).to(dtype)
    queries_of_both = torch.cat([fresh, prototypes[: queries // 2]])
    shape = {"none": None, "rows": (rows,), "pairs": (len(queries_of_both), rows)}[mask]
    allowed = None if shape is None else torch.rand(shape, generator=generator) < 0.4
    return Problem(queries_of_both, [prototypes], k, metric, allowed)


def bank_of(it: Problem, screen: str = CODED, **options: object) -> PrototypeBank:
    return PrototypeBank(
        it.prototypes, metric=it.metric, screen=screen, nonfinite=it.nonfinite, **options
    )


def search(bank: PrototypeBank, it: Problem) -> tuple[Tensor, Tensor]:
    before = bank.stats
    found = bank.topk(it.queries, it.k, mask=it.mask)
    after = bank.stats
    assert after.queries - before.queries == len(it.queries)
    assert after.certified + after.repaired == after.queries
    return found


def check(it: Problem, **options: object) -> PrototypeBank:
    """The bank, once its matches were the oracle's, and found among its codes."""
    bank = bank_of(it, **options)
    assert_exact(search(bank, it), it)
    assert len(bank) == it.rows
    if bank.screen == "int8":
        batches = -(-len(it.queries) // 16)
        pages = -(-it.rows // SPAN)
        width = int8_scan.LAYOUT.width(it.queries.shape[1])
        assert bank.stats.bytes_screened == batches * pages * SPAN * width
    return bank


@pytest.mark.parametrize("mask", ["none", "rows", "pairs"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", METRICS)
def test_equals_the_oracle(metric: str, dtype: torch.dtype, mask: str) -> None:
    it = problem(metric=metric, dtype=dtype, mask=mask)
    assert check(it).screen == CODED


@pytest.mark.parametrize("screen", ["auto", *SCREENS])
@pytest.mark.parametrize("metric", METRICS)
def test_every_screen_gives_the_same(metric: str, screen: str) -> None:
    check(problem(metric=metric, mask="pairs"), screen=screen)


@pytest.mark.parametrize("kind", [*KINDS, *FEATURES])
@pytest.mark.parametrize("metric", METRICS)
def test_exact_on_hard_data(kind: str, metric: str) -> None:
    check(problem(kind, metric=metric, rows=2500, seed=3))


@needs_int8
@pytest.mark.parametrize("metric", METRICS)
def test_heavy_coordinates_are_rotated(metric: str) -> None:
    bank = check(problem("heavy", channels=256, metric=metric))
    codes = bank._state.coder.codes
    assert codes is not None
    assert codes.frame.rotation is not None


@pytest.mark.parametrize("k", [1, 10, 100, 1500])
@pytest.mark.parametrize("kind", ["gaussian", "clustered"])
@pytest.mark.parametrize("metric", METRICS)
def test_every_k_up_to_all(metric: str, kind: str, k: int) -> None:
    check(problem(kind, 1500, 9, k, metric, queries=6))


@pytest.mark.parametrize("channels", [1, 3, 77, 512])
@pytest.mark.parametrize("metric", METRICS)
def test_every_width(metric: str, channels: int) -> None:
    check(problem(channels=channels, metric=metric, rows=2100))


@pytest.mark.parametrize("rows", [1, 2, 17, 1023, 1024, 1025, 2049, 4097])
def test_rows_around_the_ends_of_pages(rows: int) -> None:
    for mask in ("none", "pairs"):
        check(problem(rows=rows, k=min(rows, 10), mask=mask, queries=3))


@pytest.mark.parametrize("queries", [1, 2, 15, 16, 17, 50])
def test_queries_around_the_ends_of_blocks(queries: int) -> None:
    check(problem(queries=queries, metric="l2"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("rows", [1025, 2049, 3000])
@pytest.mark.parametrize("allowed", [[], [0], [-1], [0, -1], [1024, 3]])
def test_fewer_may_match_than_are_wanted(allowed: list[int], rows: int, dtype: torch.dtype) -> None:
    """What pages are padded with must not be read: those rows do not exist."""
    it = problem(rows=rows, dtype=dtype, queries=5)
    mask = torch.zeros(rows, dtype=torch.bool)
    mask[allowed] = True
    check(it.replace(mask=mask))
    masks = mask.repeat(5, 1)
    masks[1] = True
    check(it.replace(mask=masks))


@pytest.mark.parametrize("metric", METRICS)
def test_chunks_of_any_size_dtype_and_layout_are_one_set(metric: str) -> None:
    generator = torch.Generator().manual_seed(5)
    rows = features("gaussian", 5500, 16, generator)
    sizes = (1, 5, 0, 900, 1024, 1100, 2, 2468)
    chunks = [part.to(DTYPES[i % 4]) for i, part in enumerate(rows.split(sizes))]
    chunks[3] = chunks[3].repeat_interleave(2, 1)[:, ::2]
    chunks[4] = chunks[4].T.contiguous().T
    chunks[7] = chunks[7].flip(0)[:1].expand(2468, 16)
    it = problem(channels=16, metric=metric).replace(prototypes=chunks)
    bank = check(it)
    assert bank.dtype == torch.float64
    mask = torch.rand(20, 5500, generator=generator) < 0.3
    check(it.replace(mask=mask, k=200))


@pytest.mark.parametrize("layout", ["transposed", "gaps", "expanded"])
@pytest.mark.parametrize("side", ["queries", "prototypes"])
@pytest.mark.parametrize("metric", METRICS)
def test_any_strides(metric: str, side: str, layout: str) -> None:
    it = problem(metric=metric)

    def laid_out(x: Tensor) -> Tensor:
        if layout == "transposed":
            return x.T.contiguous().T
        return x.repeat_interleave(2, 1)[:, ::2] if layout == "gaps" else x[:1].expand(x.shape)

    if side == "queries":
        check(it.replace(queries=laid_out(it.queries)))
    else:
        check(it.replace(prototypes=[laid_out(it.prototypes[0])]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_queries_of_another_dtype(dtype: torch.dtype) -> None:
    for own in (torch.float16, torch.float64):
        it = problem(dtype=own, metric="dot")
        check(it.replace(queries=it.queries.to(dtype)))


@needs_int8
@pytest.mark.parametrize("metric", METRICS)
def test_equal_scores_are_repaired_and_stay_in_order(metric: str) -> None:
    """Nothing can be excluded where everything ties: the screen must give up and say so."""
    it = problem("identical", metric=metric)
    bank = check(it)
    assert bank.stats.repaired == len(it.queries)
    assert search(bank, it)[1][0].tolist() == list(range(10))


@needs_int8
def test_what_a_screen_settles_counts_as_certified() -> None:
    it = problem(channels=64, rows=6000)
    bank = check(it)
    assert bank.stats.repaired == 0
    assert 10 * 20 <= bank.stats.rows_rescored < 0.05 * 20 * 6000


def test_stats_add_up_over_searches() -> None:
    it = problem()
    bank = bank_of(it)
    product = bank.stats.product
    assert bank.stats == BankStats(product=product)
    search(bank, it)
    once = bank.stats
    search(bank, it)
    assert bank.stats == BankStats(
        *(2 * getattr(once, name) for name in BankStats.__dataclass_fields__ if name != "product"),
        product=product,
    )


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nonfinite_prototypes_are_refused_by_row(bad: float, screen: str) -> None:
    it = problem()
    it.prototypes[0][[1, 2040]] = bad
    with pytest.raises(ValueError, match=r"prototypes must be finite .* rows 1, 2040"):
        bank_of(it, screen=screen)


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("metric", METRICS)
def test_excluded_prototypes_keep_their_position_and_never_match(metric: str, screen: str) -> None:
    it = problem(metric=metric, rows=2500).replace(nonfinite="exclude")
    it.prototypes[0][[0, 1023, 1024, 2499], 3] = math.nan
    it.prototypes[0][5:40] = math.inf
    bank = check(it, screen=screen)
    assert len(bank.ids) == 2500
    everything = search(bank, it.replace(k=2500))
    assert_exact(everything, it.replace(k=2500))
    assert (everything[1][:, -39:] == -1).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nonfinite_queries(bad: float) -> None:
    it = problem()
    bank = bank_of(it)
    it.queries[[2, 19], 1] = bad
    with pytest.raises(ValueError, match=r"queries must be finite .* rows 2, 19"):
        bank.topk(it.queries, 10)
    bank = check(it.replace(nonfinite="exclude"))
    assert bank.stats.repaired == 0  # what may match nothing needs no help


@pytest.mark.parametrize("metric", METRICS)
def test_half_of_the_queries_may_be_excluded(metric: str) -> None:
    it = problem(metric=metric, channels=64).replace(nonfinite="exclude")
    it.queries[::2] = math.nan
    assert check(it).stats.repaired == 0


@pytest.mark.parametrize("metric", METRICS)
def test_norms_too_large_for_the_screen_are_searched_in_float(metric: str) -> None:
    it = problem(metric=metric)
    it.prototypes[0][100] *= 1e30
    assert bank_of(it).screen == "float"
    check(it)
    tame = problem(metric=metric)
    bank = check(tame)
    bank.add(it.prototypes[0][100:101])
    assert bank.screen == "float"
    grown = tame.replace(prototypes=[*tame.prototypes, it.prototypes[0][100:101]])
    assert_exact(search(bank, grown), grown)


@pytest.mark.parametrize("metric", METRICS)
def test_norms_up_to_the_largest_tame_one_are_coded(metric: str) -> None:
    it = problem(metric=metric)
    x = it.prototypes[0].double()
    scale = LARGEST_NORM * 0.999 / torch.linalg.vector_norm(x, dim=1, keepdim=True)
    it = it.replace(prototypes=[(x * scale).float()])
    assert check(it).screen == CODED


@pytest.mark.parametrize("metric", METRICS)
def test_a_query_too_large_for_the_screen(metric: str) -> None:
    it = problem(metric=metric)
    it.queries[3] *= 1e25
    check(it)


@pytest.mark.parametrize("metric", METRICS)
def test_gradients_of_queries_are_those_of_topk(metric: str) -> None:
    it = problem(metric=metric, mask="pairs", dtype=torch.float64)
    weights = torch.randn(20, 10, generator=torch.Generator().manual_seed(1))
    bank, grads = bank_of(it), []
    for find in (
        lambda q: bank.topk(q, 10, mask=it.mask),
        lambda q: topk(q, it.prototypes, 10, metric=metric, mask=it.mask),
    ):
        queries = it.queries.clone().requires_grad_()
        scores, indices = find(queries)
        assert not indices.requires_grad
        grads.append(torch.autograd.grad((scores * weights).sum(), queries)[0])
    assert torch.equal(*grads)


def test_gradients_survive_changes_of_the_bank() -> None:
    it = problem()
    bank = bank_of(it)
    bank.remove(0)
    queries = it.queries.clone().requires_grad_()
    scores, _ = bank.topk(queries, 10)
    bank.remove(range(1, 2000))
    (actual,) = torch.autograd.grad(scores.sum(), queries)
    expected = it.queries.clone().requires_grad_()
    topk(expected, it.prototypes[0][1:], 10).scores.sum().backward()
    assert torch.equal(actual, expected.grad)


def test_nothing_asked_and_nothing_there() -> None:
    it = problem()
    bank = bank_of(it)
    for queries, k in ((it.queries[:0], 5), (it.queries, 0)):
        scores, indices = bank.topk(queries, k)
        assert scores.shape == indices.shape == (len(queries), k)
        assert (scores.dtype, indices.dtype) == (torch.float32, torch.int64)
    assert bank.stats.queries == 0
    with pytest.raises(ValueError, match="k must be between 0 and"):
        bank.topk(it.queries, 3001)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("screen", SCREENS)
def test_an_empty_bank_can_be_filled(metric: str, screen: str) -> None:
    it = problem(metric=metric)
    bank = PrototypeBank(torch.empty(0, 24), metric=metric, screen=screen)
    assert len(bank) == 0
    assert bank.topk(it.queries, 0).scores.shape == (20, 0)
    bank.add(it.prototypes)
    assert bank.screen == screen
    assert_exact(search(bank, it), it)


def test_threads_may_search_at_once() -> None:
    problems = [problem(seed=seed, mask="pairs", rows=6000) for seed in (0, 1)]
    bank = bank_of(problems[0])
    problems[1] = problems[1].replace(prototypes=problems[0].prototypes)

    def run(it: Problem) -> None:
        for _ in range(5):
            assert_exact(bank.topk(it.queries, it.k, mask=it.mask), it)

    in_threads(run, problems)


@pytest.mark.parametrize("precision", ["high", "medium"])
@pytest.mark.parametrize("kind", ["gaussian", "identical"])
def test_exact_whatever_matmul_precision_is_allowed(kind: str, precision: str) -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        check(problem(kind, channels=256, metric="dot"))
    finally:
        torch.set_float32_matmul_precision(before)


def test_matches_are_the_callers_own() -> None:
    it = problem()
    bank = bank_of(it)
    for value in (*search(bank, it), bank.ids):
        value.fill_(-7)
    assert_exact(search(bank, it), it)
    assert bank.ids.tolist() == list(range(3000))


def test_inputs_are_left_alone() -> None:
    it = problem("heavy", channels=64, mask="pairs").replace(nonfinite="exclude")
    it.prototypes[0][7] = math.nan
    tensors = (it.queries, it.prototypes[0], it.mask)
    before = [tensor.clone() for tensor in tensors]
    search(bank_of(it), it)
    for old, tensor in zip(before, tensors, strict=True):
        assert torch.equal(old.nan_to_num(), tensor.nan_to_num())


@needs_int8
def test_prototypes_are_not_copied() -> None:
    it = problem(rows=5000, channels=64)
    bank = bank_of(it)
    assert [c.data_ptr() for c in bank._state.collection.rows.chunks] == [
        it.prototypes[0].data_ptr()
    ]
    width = 512 + 4 if bank.stats.product == choice.FBGEMM else 64  # packs have padding
    assert bank.nbytes <= 5120 * (width + 3 + 4 + 1) + 5000 * 9
    assert bank_of(it, screen="float").nbytes == 5000 * 9


def test_attributes() -> None:
    bank = bank_of(problem(dtype=torch.float16, metric="l2"))
    assert (bank.dim, bank.metric, bank.dtype, len(bank)) == (24, "l2", torch.float16, 3000)
    assert bank.device == torch.device("cpu")
    assert "3000 x 24" in repr(bank)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((torch.ones(3),), {}, ValueError, "prototypes must have shape"),
        ((torch.ones(3, 2, dtype=torch.int64),), {}, TypeError, "prototypes must be float32"),
        (([torch.ones(3, 2), torch.ones(3, 1)],), {}, ValueError, r"prototypes\[1\] must have 2"),
        (([],), {}, TypeError, "prototypes must be a torch.Tensor or a non-empty sequence"),
        ((torch.ones(3, 2),), {"metric": "cos"}, ValueError, "metric must be one of"),
        ((torch.ones(3, 2),), {"screen": "int4"}, ValueError, "screen must be one of"),
        ((torch.ones(3, 2),), {"nonfinite": "keep"}, ValueError, "nonfinite must be one of"),
        ((torch.ones(2, 40_000),), {"screen": "int8"}, ValueError, "screen must not be 'int8'"),
    ],
)
def test_refusals(arguments: tuple, options: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        PrototypeBank(*arguments, **options)


def test_refusals_of_a_search() -> None:
    bank = bank_of(problem())
    with pytest.raises(ValueError, match="queries must have the bank's 24 channels"):
        bank.topk(torch.ones(2, 23), 1)
    with pytest.raises(TypeError, match="k must be an int"):
        bank.topk(torch.ones(2, 24), 1.0)
    with pytest.raises(ValueError, match="mask must have shape"):
        bank.topk(torch.ones(2, 24), 1, mask=torch.ones(5) > 0)
    with pytest.raises(TypeError, match=r"mask must be a torch.bool"):
        bank.topk(torch.ones(2, 24), 1, mask=torch.ones(3000))


def test_wide_vectors_are_searched_in_float_unless_int8_is_demanded() -> None:
    assert PrototypeBank(torch.ones(2, 40_000)).screen == "float"


@needs_int8
@pytest.mark.parametrize("metric", METRICS)
def test_codes_laid_out_for_a_device_are_searched_alike(
    metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where Triton cannot read the vectors, the torch backend searches its codes."""
    monkeypatch.setattr(int8_scan, "LAYOUT", Layout(SPAN, 16, width_multiple=64, tile_span=128))
    generator = torch.Generator().manual_seed(1)
    for kind in ("gaussian", "identical"):
        q, p = (vectors(kind, n, 37, generator).float() for n in (20, 3 * SPAN + 5))
        bank = PrototypeBank(p, metric=metric, screen="int8")
        problem = Problem(q, [p], 10, metric)
        assert_exact(bank.topk(q, 10), problem)
        bank.remove(torch.arange(0, 100))
        problem = problem.replace(prototypes=[p[100:]])
        assert_exact(bank.topk(q, 10), problem)
