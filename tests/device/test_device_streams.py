"""Streams, threads and graphs: the door and the bank, as programs that overlap work call them."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA or ROCm device", allow_module_level=True)
pytest.importorskip("triton")

from captured import assert_never_waits, assert_replays
from problems import Problem, assert_exact, vectors

from flashmatch import PrototypeBank, topk
from flashmatch.kernels.torch_backend import plan

pytestmark = pytest.mark.usefixtures("poisoned_empty")
BUSY_CYCLES = 50_000_000  # some tens of milliseconds
Search = Callable[[Tensor], tuple[Tensor, Tensor]]


@pytest.fixture(autouse=True)
def _codes_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "CODES_ELEMENTS", 0)


@pytest.fixture(params=["topk", "bank"])
def entrance(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=[8, 300])
def problem(request: pytest.FixtureRequest) -> Problem:
    generator = torch.Generator().manual_seed(request.param)
    q, p = (vectors("gaussian", n, 64, generator).float() for n in (request.param, 20_000))
    p[::100, 3] = torch.nan
    p[7::50] = p[6::50]
    return Problem(q, [p], 9, "l2", None, "exclude", None)


def prepared(entrance: str, problem: Problem, metric: str | None = None) -> Search:
    """The prototypes are on the device, and a first search has compiled what it needs."""
    metric = metric or problem.metric
    prototypes = problem.prototypes[0].cuda()
    bank = PrototypeBank(prototypes, metric=metric, nonfinite="exclude")

    def search(queries: Tensor) -> tuple[Tensor, Tensor]:
        if entrance == "bank":
            return bank.topk(queries, problem.k)
        return topk(queries, prototypes, problem.k, metric=metric, nonfinite="exclude")

    search(problem.queries.cuda())
    torch.cuda.synchronize()
    return search


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_never_waits_and_can_be_captured(entrance: str, problem: Problem, metric: str) -> None:
    problem, queries = problem.replace(metric=metric), problem.queries.cuda()
    search = prepared(entrance, problem)
    assert_never_waits(lambda: search(queries), problem)
    assert_replays(lambda: search(queries), queries, problem)


def test_all_that_is_launched_is_launched_on_the_current_stream(
    entrance: str, problem: Problem
) -> None:
    """The queries appear late on a stream of their own; the default stream would not wait."""
    search, there = prepared(entrance, problem), problem.queries.cuda()
    queries = torch.zeros_like(there)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(BUSY_CYCLES)
        queries.copy_(there)
        found = search(queries)
        torch.cuda.current_stream().synchronize()
        assert_exact(found, problem)


def test_a_busy_default_stream_delays_nobody_else(entrance: str, problem: Problem) -> None:
    search, queries = prepared(entrance, problem), problem.queries.cuda()
    stream, done = torch.cuda.Stream(), torch.cuda.Event()
    with torch.cuda.stream(stream):
        search(queries)  # from now on this stream has memory of its own
    torch.cuda.synchronize()
    torch.cuda._sleep(10 * BUSY_CYCLES)
    with torch.cuda.stream(stream):
        found = search(queries)
        done.record()
    done.synchronize()
    idle = torch.cuda.default_stream().query()
    torch.cuda.synchronize()
    assert_exact(found, problem)
    assert not idle, "the search waited for the default stream"


def test_two_threads_each_on_its_own_stream(entrance: str, problem: Problem) -> None:
    search, device = prepared(entrance, problem), problem.queries.cuda()
    halves = [problem.replace(queries=part) for part in problem.queries.chunk(2)]
    torch.cuda.synchronize()

    def run(at: int) -> list[tuple[Tensor, Tensor]]:
        queries = device.chunk(2)[at]
        with torch.cuda.stream(torch.cuda.Stream()):
            found = [search(queries) for _ in range(10)]
            torch.cuda.current_stream().synchronize()
        return found

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(run, range(2)))
    for half, found in zip(halves, results, strict=True):
        assert_exact(found[0], half)
        for scores, indices in found[1:]:
            assert torch.equal(scores, found[0][0])
            assert torch.equal(indices, found[0][1])


def test_every_run_gives_the_same_bits(entrance: str, problem: Problem) -> None:
    search, queries = prepared(entrance, problem), problem.queries.cuda()
    first = search(queries)
    for _ in range(20):
        scores, indices = search(queries)
        assert torch.equal(scores.view(torch.int32), first[0].view(torch.int32))
        assert torch.equal(indices, first[1])


def test_chunks_on_the_host_are_brought_over_on_the_current_stream(problem: Problem) -> None:
    chunks = [chunk.clone().pin_memory() for chunk in problem.prototypes[0].split(6_000)]
    queries = problem.queries.cuda()
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(BUSY_CYCLES)
        found = topk(queries, chunks, 9, metric="l2", nonfinite="exclude", chunk_rows=4_000)
        torch.cuda.current_stream().synchronize()
        assert_exact(found, problem)
