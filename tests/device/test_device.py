"""The same contract on a real device: what neither the interpreter nor a compiler can show."""

import pytest
import torch
from torch import Tensor

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA or ROCm device", allow_module_level=True)
pytest.importorskip("triton")

from by_triton import on, prepared_vectors, vectors_plan
from captured import assert_never_waits, assert_replays
from problems import KINDS, METRICS, Problem, assert_exact, vectors

from flashmatch import kernels, topk
from flashmatch.kernels.contract import order, reference
from flashmatch.kernels.proofs import tf32
from flashmatch.kernels.triton_backend.selfcheck.checks.int8_entries import appended
from flashmatch.kernels.triton_backend.selfcheck.checks.samples import group_maxima

try:
    from drawn import problems
    from hypothesis import given
except ImportError:
    given = None

pytestmark = pytest.mark.usefixtures("poisoned_empty")
WHOLE = [(16, 700, 1), (5, 300, 72)]  # few prototypes, all of which are scored in fp64
READ = [(3, 5000, 64), (16, 2100, 192)]  # few queries, whole tiles of channels: as given, in TF32
CODED = [(3, 5000, 40), (17, 9001, 24), (300, 20011, 100), (1000, 3000, 129)]


def run(problem: Problem, **changes: object) -> tuple[Tensor, Tensor]:
    """Queries and mask on the device; every second chunk stays on the host."""
    mask = None if problem.mask is None else problem.mask.cuda()
    chunks = [p.cuda() if i % 2 == 0 else p for i, p in enumerate(problem.prototypes)]
    options = problem.options() | {"mask": mask} | changes
    return topk(problem.queries.cuda(), chunks, problem.k, **options)


if given is not None:

    @given(problems())
    def test_equals_the_oracle(problem: Problem) -> None:
        assert_exact(run(problem), problem)


def drawn(kind: str, rows: int, channels: int, seed: int) -> Tensor:
    return vectors(kind, rows, channels, torch.Generator().manual_seed(seed)).float()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
def test_kinds(kind: str, metric: str) -> None:
    for queries, channels in ((5, 64), (5, 72), (200, 72)):
        q, p = drawn(kind, queries, channels, 1), drawn(kind, 6000, channels, 2)
        problem = Problem(q, [p[:4001], p[4001:]], 10, metric, None, "raise", None)
        assert_exact(run(problem), problem)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(("queries", "rows", "channels"), WHOLE + READ + CODED)
def test_shapes_and_dtypes(
    queries: int, rows: int, channels: int, dtype: torch.dtype, metric: str
) -> None:
    q, p = (drawn("gaussian", n, channels, n).to(dtype) for n in (queries, rows))
    for k in (1, 10, 129):
        problem = Problem(q, [p], k, metric, None, "raise", None)
        assert_exact(run(problem), problem)


@pytest.mark.parametrize("queries", [7, 64])
def test_same_bits_however_it_is_cut(queries: int) -> None:
    q, p = drawn("ulps", queries, 50, 3), drawn("duplicates", 9000, 50, 4)
    problem = Problem(q, [p], 20, "cosine", None, "raise", None)
    whole = run(problem)
    assert_exact(whole, problem)
    for chunk_rows in (100, 1000, 4096):
        assert all(map(torch.equal, run(problem, chunk_rows=chunk_rows), whole))
    parts = [run(problem.replace(queries=part)) for part in q.split(5)]
    assert torch.equal(torch.cat([part[0] for part in parts]), whole[0])
    assert torch.equal(torch.cat([part[1] for part in parts]), whole[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("shape", [(9000,), (70, 9000)])
def test_masks(shape: tuple[int, ...], metric: str, dtype: torch.dtype) -> None:
    for channels in (33, 64):
        q, p = (drawn("gaussian", n, channels, n).to(dtype) for n in (70, 9000))
        for share in (0.001, 0.5):
            mask = torch.rand(shape, generator=torch.Generator().manual_seed(7)) < share
            for few in (70, 4):
                part = mask[:few] if mask.ndim == 2 else mask
                problem = Problem(q[:few], [p], 30, metric, part, "raise", 5000)
                assert_exact(run(problem), problem)


@pytest.mark.parametrize("queries", [5, 70])
@pytest.mark.parametrize("kept_on", ["pinned", "host", "mixed"])
def test_prototypes_anywhere(kept_on: str, queries: int) -> None:
    q, p = drawn("gaussian", queries, 64, 1), drawn("duplicates", 9001, 64, 2)
    problem = Problem(q, [p[:5000], p[5000:]], 20, "l2", None, "raise", 3000)
    pinned = [chunk.contiguous().pin_memory() for chunk in problem.prototypes]
    kept = {
        "pinned": pinned,
        "host": problem.prototypes,
        "mixed": [pinned[0], problem.prototypes[1].cuda()],
    }[kept_on]
    options = problem.options()
    assert_exact(topk(q.cuda(), kept, 20, **options), problem)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("kind", ["gaussian", "integers", "offset", "duplicates"])
@pytest.mark.parametrize("channels", [64, 768, 4096])
def test_tensor_cores_stay_within_delta(channels: int, kind: str, dtype: torch.dtype) -> None:
    """An assumption about hardware: sections 1 and 2 of proofs/tf32.py, with their whole slack."""
    q, p = drawn(kind, 16, channels, 8), drawn(kind, 2048, channels, 9)
    p[: len(q)] = q * 3
    p = p.to(dtype)
    problem = on(Problem(q, [p], 1, "cosine", None, "raise", None), "cuda")
    plan = vectors_plan(problem)
    assert plan.tf32
    entries = appended(*prepared_vectors(problem, plan), capacity=2048)[: len(q)]
    bounds, best = order.unpack(entries << 32)[0], group_maxima(reference.scores(q, p, "cosine"))
    delta = tf32.delta_of(channels, plan.half)
    assert (bounds >= best).all()
    assert (bounds - best <= 2 * delta + 1e-6).all()


@pytest.mark.parametrize("queries", [8, 300])
def test_exclude_never_waits_and_can_be_captured(queries: int) -> None:
    q, p = drawn("gaussian", queries, 64, 10), drawn("gaussian", 7000, 64, 11)
    p[::100, 3] = torch.nan
    problem = Problem(q, [p], 9, "l2", None, "exclude", 3000)
    q, p = q.cuda(), p.cuda()

    def search() -> tuple[Tensor, Tensor]:
        return topk(q, p, 9, metric="l2", nonfinite="exclude", chunk_rows=3000)

    assert_never_waits(search, problem)
    assert_replays(search, q, problem)


def test_nonfinite_rows_are_named() -> None:
    q, p = torch.ones(40, 8, device="cuda"), torch.ones(5000, 8, device="cuda")
    p[4321, 2] = torch.inf
    for few in (3, 40):
        with pytest.raises(ValueError, match=r"prototypes must be finite.* row 4321"):
            topk(q[:few], p, 1)


@pytest.mark.parametrize("host", [False, True])
@pytest.mark.parametrize(("queries", "k"), [(9, 10), (20000, 10), (2000, 1000)])
def test_workspace(queries: int, k: int, host: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    budget = 64 * 2**20
    monkeypatch.setattr(kernels, "WORKSPACE_BYTES", budget)
    q, p = torch.randn(queries, 128, device="cuda"), torch.randn(300_000, 128)
    p = p if host else p.cuda()
    topk(q[:1], p, 1)  # what compiling and first calls allocate is not workspace
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    topk(q, [p], k)
    held = torch.cuda.max_memory_allocated() - before - queries * k * 12
    assert held <= budget
