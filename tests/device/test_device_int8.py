"""Search of int8 codes on a real device."""

import pytest
import torch
from torch import Tensor

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA or ROCm device", allow_module_level=True)
pytest.importorskip("triton")

from by_triton import codes_plan, on, prepared_codes, request_of, search_codes
from captured import assert_never_waits, assert_replays
from coded import close, coded
from problems import KINDS, METRICS, Problem, assert_exact, vectors

from flashmatch.kernels.codes.pages import Codes
from flashmatch.kernels.contract.chunks import Rows
from flashmatch.kernels.contract.matches import Found
from flashmatch.kernels.proofs import int8
from flashmatch.kernels.triton_backend import bank_search
from flashmatch.kernels.triton_backend.bank_search import LAYOUT
from flashmatch.kernels.triton_backend.query_block import CodedQueries
from flashmatch.kernels.triton_backend.selfcheck.checks.int8_entries import appended
from flashmatch.kernels.triton_backend.selfcheck.checks.samples import group_maxima

pytestmark = pytest.mark.usefixtures("poisoned_empty")
CASES = [(1, 129, 40), (16, 9001, 128), (17, 5000, 1), (300, 20011, 100), (1000, 3000, 769)]


def drawn(kind: str, rows: int, channels: int, seed: int) -> Tensor:
    return vectors(kind, rows, channels, torch.Generator().manual_seed(seed)).float()


def built(problem: Problem) -> Codes:
    return coded([p.cuda() for p in problem.prototypes], problem.metric, LAYOUT)


def run(problem: Problem, codes: Codes | None = None) -> Found:
    problem, codes = on(problem, "cuda"), codes or built(problem)
    assert not why_not(problem, codes)
    return search_codes(problem, codes)


def why_not(problem: Problem, codes: Codes) -> str:
    rows = Rows(problem.prototypes)
    return bank_search.why_not_codes(problem.queries, codes, rows, request_of(problem))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
def test_kinds(kind: str, metric: str) -> None:
    for queries in (5, 200):
        q, p = drawn(kind, queries, 72, 1), drawn(kind, 6000, 72, 2)
        problem = Problem(q, [p[:4001], p[4001:]], 10, metric, None, "raise", None)
        assert_exact(run(problem)[:2], problem)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(("queries", "rows", "channels"), CASES)
def test_shapes_and_dtypes(
    queries: int, rows: int, channels: int, dtype: torch.dtype, metric: str
) -> None:
    q, p = (drawn("gaussian", n, channels, n).to(dtype) for n in (queries, rows))
    for k in (1, 10, 129):
        problem = Problem(q, [p], k, metric, None, "raise", None)
        assert_exact(run(problem)[:2], problem)


@pytest.mark.parametrize("channels", [64, 1024, 2**15])
@pytest.mark.parametrize("queries", [16, 128])
def test_integer_units_are_exact(queries: int, channels: int) -> None:
    """An assumption about hardware: sums of products of codes, up to the largest, in int32."""
    q, p = drawn("integers", queries, channels, 8), drawn("integers", 512, channels, 9)
    codes = coded([p.cuda()], "dot", LAYOUT)
    problem = on(Problem(q, [p], 1, "dot", None, "raise", None), "cuda")
    block, run = prepared_codes(problem, codes, codes_plan(problem, codes))
    assert isinstance(block.screened, CodedQueries)
    block.screened.codes[0] = codes.codes[0] = int8.LARGEST_CODE
    codes.codes[1] = -int8.LARGEST_CODE
    own, others = (x.cpu().long() for x in (block.screened.codes[:queries], codes.codes[:512]))
    products = torch.stack([(x * others).sum(1) for x in own])
    assert torch.equal(appended(block, run, capacity=512)[:queries], group_maxima(products))


@pytest.mark.parametrize("shape", [(9000,), (70, 9000)])
def test_masks_and_removed_rows(shape: tuple[int, ...]) -> None:
    q, p = drawn("gaussian", 70, 33, 5), drawn("gaussian", 9000, 33, 6)
    generator = torch.Generator().manual_seed(7)
    present = torch.rand(9000, generator=generator) < 0.8
    codes = coded([p.cuda()], "dot", LAYOUT)
    close(codes, present.cuda())
    for share in (0.001, 0.5):
        mask = torch.rand(shape, generator=generator) < share
        for few in (70, 4):
            part = mask[:few] if mask.ndim == 2 else mask
            problem = Problem(q[:few], [p], 30, "dot", part, "raise", None)
            assert_exact(run(problem, codes)[:2], problem.replace(mask=part & present))


@pytest.mark.parametrize("kind", ["ulps", "identical"])
def test_repair(kind: str) -> None:
    """All pass, and a second round has more tiles than there is room for."""
    p = drawn(kind, 140_000, 64, 1)
    for queries in (3, 40):
        problem = Problem(p[:1].repeat(queries, 1), [p], 3, "cosine", None, "raise", None)
        found = run(problem)
        assert_exact(found[:2], problem)
        assert found.repaired == queries


def test_originals_in_pinned_host_memory() -> None:
    q, p = drawn("gaussian", 40, 50, 3), drawn("gaussian", 9000, 50, 4)
    problem = Problem(q, [p], 20, "l2", None, "raise", None)
    codes, pinned = built(problem), [p[:4000].pin_memory(), p[4000:].pin_memory()]
    kept = problem.replace(queries=q.cuda(), prototypes=pinned)
    assert not why_not(kept, codes)
    assert_exact(search_codes(kept, codes)[:2], problem)


def test_what_is_refused_has_a_reason() -> None:
    q, p = torch.ones(1, 4, device="cuda"), torch.randn(200, 4)
    problem = Problem(q, [p.cuda()], 2049, "dot", None, "raise", None)
    codes = built(problem)
    assert why_not(problem, codes) == "k above 2,048"
    assert "not pinned" in why_not(problem.replace(k=100, prototypes=[p]), codes)
    assert "layout" in why_not(problem.replace(k=100), coded([p], "dot", LAYOUT))


@pytest.mark.parametrize("queries", [8, 300])
def test_exclude_never_waits_and_can_be_captured(queries: int) -> None:
    q, p = drawn("gaussian", queries, 64, 10), drawn("gaussian", 7000, 64, 11)
    p[::100, 3] = torch.nan
    problem = Problem(q, [p], 9, "l2", None, "exclude", None)
    codes, there = built(problem), on(problem, "cuda")

    def search() -> tuple[Tensor, Tensor]:
        return search_codes(there, codes)[:2]

    assert_never_waits(search, problem)
    assert_replays(search, there.queries, problem)


@pytest.mark.parametrize(("queries", "k"), [(9, 10), (20000, 10), (2000, 1000)])
def test_workspace(queries: int, k: int) -> None:
    budget = 64 * 2**20
    q, p = torch.randn(queries, 128, device="cuda"), torch.randn(300_000, 128, device="cuda")
    problem = Problem(q, [p], k, "cosine", None, "exclude", None)
    codes = built(problem)
    search_codes(problem.replace(queries=q[:1], k=1), codes, budget)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    search_codes(problem, codes, budget)
    held = torch.cuda.max_memory_allocated() - before - queries * k * 12
    assert held <= budget


def test_codes_beyond_two_gibibytes() -> None:
    """Addresses need 64 bits; the best rows are the last."""
    rows = 2**31 // 256 + 1000
    p = torch.randn(rows, 256, device="cuda", dtype=torch.float16)
    problem = Problem(p[-40:].float(), [p], 1, "dot", None, "exclude", None)
    codes = built(problem)
    for few in (40, 3):
        found = search_codes(problem.replace(queries=problem.queries[-few:]), codes)
        assert found.rows[:, 0].tolist() == list(range(rows - few, rows))
