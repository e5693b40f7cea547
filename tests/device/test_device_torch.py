"""The torch backend on a CUDA device, without Triton: every line that a CPU does not run.

``reaches`` names lines of kernels/; tests/kernels/test_cuda_lines.py holds that each line that asks
for a device is named, and rehearses these tests where there is no device.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA or ROCm device", allow_module_level=True)

from problems import DTYPES, KINDS, METRICS, Problem, assert_exact, vectors
from reached import reaches
from screens import screen_small

from flashmatch import PrototypeBank, kernels, topk, within
from flashmatch.kernels import bank_contents, dispatch, machine
from flashmatch.kernels.codes import held
from flashmatch.kernels.codes.layout import Layout
from flashmatch.kernels.contract.arguments import require_device
from flashmatch.kernels.contract.finite import norms
from flashmatch.kernels.contract.matches import Found
from flashmatch.kernels.operators import gradient
from flashmatch.kernels.products import choice, fp64, integers, rounding
from flashmatch.kernels.proofs import fp32, int8
from flashmatch.kernels.storage.counts import Counts
from flashmatch.kernels.torch_backend import int8_scan, int8_search, rescore

CUDA = torch.device("cuda", torch.cuda.current_device())
CPU = torch.device("cpu")
LAYOUT_OF_TRITON = Layout(span=1024, group=16, width_multiple=64, tile_span=128)
"""As triton_backend/bank_search.py has it: codes that are there when the kernels are refused."""
QUERIES, ROWS, FIRST = 24, 2_600, 1_301
"""Of most problems here, and rows of their first chunk: three pages of codes."""
BUSY_CYCLES = 50_000_000  # some tens of milliseconds

pytestmark = pytest.mark.usefixtures("poisoned_empty")
is_rehearsal = type(torch.empty(0, device=CUDA)) is not Tensor
needs_a_card = pytest.mark.skipif(is_rehearsal, reason="streams, memory and compilers need a card")


@pytest.fixture(autouse=True)
def _refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "why_no_triton", lambda device: "a test")


@pytest.fixture(params=["vectors", "codes", "codes as Triton's"])
def screen(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param != "vectors":
        screen_small(monkeypatch)
    if request.param == "codes as Triton's":
        monkeypatch.setattr(bank_contents, "layout_for", lambda *_: LAYOUT_OF_TRITON)
    return request.param


def drawn(kind: str, rows: int, channels: int, seed: int) -> Tensor:
    return vectors(kind, rows, channels, torch.Generator().manual_seed(seed)).float()


def problem_of(kind: str = "gaussian", metric: str = "cosine", **changes: object) -> Problem:
    """Of 33 channels."""
    q, p = drawn(kind, QUERIES, 33, 1), drawn(kind, ROWS, 33, 2)
    return Problem(q, [p[:FIRST], p[FIRST:]], 10, metric).replace(**changes)


def bank_of(problem: Problem, screen: str) -> PrototypeBank:
    chunks = [p.cuda() for p in problem.prototypes]
    asked = "float" if screen == "vectors" else "int8"
    options = {"metric": problem.metric, "nonfinite": problem.nonfinite, "screen": asked}
    bank = PrototypeBank(chunks, **options)
    largest = max(float(norms(p).nan_to_num(0, 0, 0).max()) for p in problem.prototypes)
    assert bank.screen == (asked if largest <= fp32.LARGEST_NORM else "float")
    assert bank.device == CUDA
    return bank


def found(problem: Problem, screen: str) -> tuple[Tensor, Tensor]:
    """By ``topk``, or by a bank that has codes; either way of what lies on the device."""
    queries, mask = problem.queries.cuda(), problem.mask
    mask = mask if mask is None else mask.cuda()
    if screen == "vectors":
        chunks = [p.cuda() for p in problem.prototypes]
        return topk(queries, chunks, problem.k, **problem.options() | {"mask": mask})
    return bank_of(problem, screen).topk(queries, problem.k, mask=mask)


def assert_found(problem: Problem, screen: str) -> None:
    matches = found(problem, screen)
    assert {part.device for part in matches} == {CUDA}
    assert_exact(matches, problem)


@reaches("dispatch.py", 'if device.type == "cuda":')
@reaches("dispatch.py", '_log.debug("the torch backend searches on %s: %s", device, why_not)')
def test_who_searches_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "flashmatch"):
        assert_found(problem_of(), "vectors")
    assert f"the torch backend searches on {CUDA}: a test" in caplog.text


@reaches("explaining/explained.py", 'on_cpu = device.type == "cpu"')
def test_explain(screen: str) -> None:
    problem = problem_of()
    told = bank_of(problem, screen).explain(problem.queries.to(CUDA), problem.k)
    assert [stage.name for stage in told.stages] == ["search"]
    assert told.seconds > 0
    assert (told.survivors, told.bytes_rescored) == (None, 0)
    assert told.bytes_screened > 0


@reaches("torch_backend/rescore.py", 'if queries.device.type != "cpu":')
def test_labels_of_a_few(screen: str) -> None:
    problem = problem_of()
    own, labels = torch.arange(QUERIES) % 7, torch.arange(ROWS) % 300
    matches = bank_of(problem, screen).topk(problem.queries.cuda(), 5, same=(own, labels))
    assert {part.device for part in matches} == {CUDA}
    assert_exact(matches, problem.replace(k=5, mask=own[:, None] == labels))


@needs_a_card
@reaches("dispatch.py", 'if device.type != "cuda":')
def test_who_may_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert dispatch.why_no_triton(CPU) == "it is no GPU"
    assert dispatch.why_no_triton(CUDA) != "it is no GPU"


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
@reaches("codes/frame.py", 'if vectors.device.type == "cpu":')
@reaches("codes/frame.py", "return vectors.sort(0).values[(len(vectors) - 1) // 2]")
@reaches("proofs/int8.py", 'if left.device.type == "cpu":')
@reaches("proofs/int8.py", "total.addcmul_(left[:, term, None], right[term])")
@reaches("products/pairs.py", 'if queries.device.type != "cpu":')
@reaches("products/pairs.py", "return _gathered_dots(queries, prototypes, rows, columns)")
def test_kinds(kind: str, metric: str, screen: str) -> None:
    assert_found(problem_of(kind, metric), screen)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", METRICS)
def test_dtypes(dtype: torch.dtype, metric: str, screen: str) -> None:
    problem = problem_of(metric=metric)
    chunks = [p.to(dtype) for p in problem.prototypes]
    assert_found(problem.replace(queries=problem.queries.to(dtype), prototypes=chunks), screen)


@pytest.mark.parametrize("channels", [1, 7, 8, 33, 72, 769])
@pytest.mark.parametrize("queries", [1, 16, 17, 32, 33, 300])
@reaches("products/integers.py", 'if queries.device.type == "cpu":')
@reaches("products/integers.py", "missing = max(32 - len(queries), -len(queries) % 8)")
@reaches(
    "products/integers.py",
    "return torch._int_mm(pad(queries, (0, 0, 0, missing)), prototypes.T)[: len(queries)]",
)
def test_shapes_that_integer_products_refuse(queries: int, channels: int, screen: str) -> None:
    """cuBLAS wants more than 16 rows, and multiples of 8 on every side."""
    q, p = drawn("gaussian", queries, channels, 1), drawn("gaussian", 1_030, channels, 2)
    assert_found(Problem(q, [p], 3, "dot"), screen)


@reaches("products/integers.py", 'if device_type not in ("cpu", "cuda"):')
@reaches("products/integers.py", 'if device_type == "cuda":  # multiples, as cuBLAS wants them')
@reaches("products/integers.py", "rows = pad(rows, (0, -width % 16)).repeat(8, 1)")
@reaches("products/integers.py", 'if device_type != "cpu":')
@reaches("products/choice.py", 'return device_type == "cpu" and product_of_codes("cpu") == FBGEMM')
@reaches(
    "products/choice.py",
    'if device_type == "cpu" and not integers.is_fast("cpu") and packed.is_packed_exact():',
)
def test_integer_products_are_exact_and_said_to_be_slow() -> None:
    assert integers.is_exact.__wrapped__("cuda")  # asked anew, whoever asked before
    assert integers.why_not_fast("cuda") == choice.why_codes_are_slow("cuda") == "it is no CPU"
    assert choice.product_of_codes("cuda") == choice.INT_MM


@reaches("dispatch.py", 'if device.type == "cpu":')
@reaches(
    "dispatch.py",
    'return int8_scan.LAYOUT if device.type == "cpu" else int8_scan.LAYOUT_CUDA',
)
@reaches(
    "torch_backend/int8_scan.py",
    "LAYOUT_CUDA = Layout(CODED_SPAN, group=16, width_multiple=16)",
)
@reaches(
    "codes/held.py",
    'product = choice.product_of_codes("cpu") if device.type == "cpu" else choice.INT_MM',
)
def test_codes_lie_as_cublas_wants_them() -> None:
    assert held.held_for(8, 16, 8, CUDA).product == choice.INT_MM
    assert dispatch.layout_for(CUDA, 33, "int8") is int8_scan.LAYOUT_CUDA
    assert dispatch.layout_for(CUDA, 33, "auto") is None
    assert dispatch.layout_for(CUDA, int8.MAX_CHANNELS + 1, "auto") is None


def test_the_layout_is_that_of_triton() -> None:
    pytest.importorskip("triton")
    from flashmatch.kernels.triton_backend import bank_search

    assert bank_search.LAYOUT == LAYOUT_OF_TRITON


def test_raw_vectors_are_not_coded_in_passing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("codes are for a CPU that multiplies them fast")

    monkeypatch.setattr(int8_search, "search_while_coding", refuse)
    q, p = drawn("gaussian", 600, 128, 1), drawn("gaussian", 17_000, 128, 2)
    matches = topk(q.cuda(), p.cuda(), 3)
    few = Problem(q[:20], [p], 3, "cosine")
    assert_exact((matches.scores[:20], matches.indices[:20]), few)


@pytest.mark.parametrize("k", [1, 600, 1_025, ROWS])
@reaches("torch_backend/rescore.py", "scores = q.vectors @ p.vectors.T")
def test_k(k: int, screen: str) -> None:
    problem = problem_of("duplicates", k=k)
    assert_found(problem.replace(queries=problem.queries[:5]), screen)


@pytest.mark.parametrize("shape", [(ROWS,), (QUERIES, ROWS)])
@pytest.mark.parametrize("share", [0.001, 0.5])
def test_masks(shape: tuple[int, ...], share: float, screen: str) -> None:
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(7)) < share
    assert_found(problem_of("duplicates", mask=mask), screen)


@pytest.mark.parametrize("chunk_rows", [300, 1_000, 2_048])
def test_same_bits_however_it_is_cut(chunk_rows: int) -> None:
    problem = problem_of("ulps", "l2")
    whole = found(problem, "vectors")
    assert_exact(whole, problem)
    assert all(map(torch.equal, found(problem.replace(chunk_rows=chunk_rows), "vectors"), whole))


def anywhere(kept_on: str, chunks: list[Tensor]) -> list[Tensor]:
    return {
        "host": lambda: chunks,
        "pinned": lambda: [chunk.contiguous().pin_memory() for chunk in chunks],
        "mixed": lambda: [chunks[0].cuda(), chunks[1]],
        "mixed dtypes": lambda: [chunks[0].cuda().half(), chunks[1].double()],
    }[kept_on]()


@pytest.mark.parametrize("kept_on", ["host", "pinned", "mixed", "mixed dtypes"])
@pytest.mark.parametrize("metric", METRICS)
@reaches("contract/chunks.py", 'if indices.device.type != "cpu":')
@reaches("contract/chunks.py", "require_rows(indices, len(self))")
@reaches("contract/chunks.py", 'return rows.to(device, non_blocking=device.type != "cpu")')
def test_prototypes_anywhere(kept_on: str, metric: str, screen: str) -> None:
    problem = problem_of("duplicates", metric)
    kept = anywhere(kept_on, problem.prototypes)
    problem = problem.replace(prototypes=[p.cpu() for p in kept])
    queries = problem.queries.cuda()
    if screen == "vectors":
        matches = topk(queries, kept, 10, metric=metric, chunk_rows=900)
    else:
        bank = PrototypeBank(kept, metric=metric, screen="int8", device="cuda")
        matches = bank.topk(queries, 10)
    assert_exact(matches, problem)


@pytest.mark.parametrize("metric", METRICS)
@reaches("concurrency/fit_thread.py", 'if tensors and tensors[0].device.type != "cpu":')
def test_queries_on_the_host_wait_for_prototypes_from_the_device(metric: str) -> None:
    """A copy to the CPU that does not block is read before it has arrived."""
    q, p = drawn("gaussian", 8, 64, 1), drawn("gaussian", 40_000, 64, 2)
    problem, there = Problem(q, [p], 5, metric), torch.zeros(p.shape, device=CUDA)
    here = p.cuda()
    if not is_rehearsal:
        torch.cuda._sleep(BUSY_CYCLES)
    there.copy_(here)
    assert_exact(topk(q, there, 5, metric=metric), problem)
    bank = PrototypeBank(there, metric=metric, device="cpu")
    assert bank.device == CPU
    assert_exact(bank.topk(q, 5), problem)


@reaches(
    "concurrency/fit_thread.py",
    "stream = torch.cuda.current_stream() if torch.cuda.is_initialized() else None",
)
@reaches("concurrency/fit_thread.py", "with torch.cuda.stream(stream):")
def test_denormals_where_the_host_computes_and_flushes_them() -> None:
    q, p = drawn("gaussian", 7, 33, 1), drawn("denormals", 300, 33, 2)
    problem, here = Problem(q, [p], 5, "dot"), p.cuda()
    if not torch.set_flush_denormal(True):
        pytest.skip("this CPU keeps denormals whatever it is asked")
    try:
        matches = topk(q, here, 5, metric="dot")
    finally:
        torch.set_flush_denormal(False)
    assert_exact(matches, problem)


def test_a_bank_answers_where_the_queries_are(screen: str) -> None:
    problem = problem_of()
    bank = bank_of(problem, screen)
    mask = torch.rand(ROWS) < 0.5
    for queries, allowed in ((problem.queries, mask), (problem.queries.cuda(), mask.cuda())):
        matches = bank.topk(queries, 10, mask=allowed)
        assert {part.device for part in matches} == {queries.device}
        assert_exact(matches, problem.replace(mask=mask))


def new_api(value: str) -> None:
    torch.backends.cuda.matmul.fp32_precision = value


def legacy(value: str) -> None:
    torch.backends.cuda.matmul.allow_tf32 = value == "tf32"


def by_name(value: str) -> None:
    torch.set_float32_matmul_precision("high" if value == "tf32" else "highest")


@pytest.fixture(params=[legacy, by_name, new_api])
def tf32(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.param is new_api and not hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        pytest.skip("torch 2.9 has these settings")
    request.param("tf32")
    yield
    request.param("none" if request.param is new_api else "ieee")
    assert rounding._settings(CUDA) == rounding._STRICT


@pytest.mark.parametrize("kind", ["gaussian", "duplicates", "ulps"])
@reaches("products/rounding.py", '"cuda": (')
@reaches(
    "products/rounding.py",
    'backend = torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn',
)
@reaches(
    "products/rounding.py",
    'if device.type == "cuda" and torch.backends.cuda.matmul.allow_tf32:',
)
def test_tf32(kind: str, screen: str, tf32: None) -> None:
    assert rounding.operand_roundoff(CUDA) == rounding.BF16  # what is allowed, whatever is shown
    for metric in METRICS:
        assert_found(problem_of(kind, metric), screen)


@reaches("products/rounding.py", 'settings.add("legacy and new, mixed")')
def test_settings_of_two_kinds_are_no_error() -> None:
    """torch refuses to say whether TF32 is allowed where only the newer setting allows it."""
    new_api("tf32")
    try:
        assert rounding.operand_roundoff(CUDA) == rounding.BF16
    finally:
        new_api("none")
    assert rounding.operand_roundoff(CUDA) == 0.0


@pytest.fixture
def _reduced_precision() -> Iterator[None]:
    """Whatever torch may do to sums of products of fp16 and bf16."""
    matmul = torch.backends.cuda.matmul
    names = [f"allow_{name}_reduced_precision_reduction" for name in ("fp16", "bf16")]
    before = {name: getattr(matmul, name) for name in (*names, "allow_fp16_accumulation")}
    for name in before:
        setattr(matmul, name, True)
    yield
    for name, value in before.items():
        setattr(matmul, name, value)


@pytest.mark.usefixtures("_reduced_precision")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_reduced_precision_of_sums(dtype: torch.dtype, screen: str) -> None:
    """Nothing is multiplied in fp16 or bf16, so that these settings change nothing."""
    problem = problem_of()
    chunks = [p.to(dtype) for p in problem.prototypes]
    problem = problem.replace(queries=problem.queries.to(dtype), prototypes=chunks)
    with torch.autocast("cuda", dtype=dtype):
        assert_found(problem, screen)


@pytest.mark.parametrize("metric", METRICS)
@reaches(
    "torch_backend/rescore.py",
    "rows, columns = rows.to(queries.device), columns.to(queries.device)",
)
def test_emulated_fp64_is_not_used(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rescore, "multiplies_in_fp64", lambda device: False)
    problem = problem_of("offset", metric, k=1_500)
    assert_found(problem.replace(queries=problem.queries[:4]), "vectors")


@reaches(
    "products/fp64.py",
    'if device.type == "cuda" and os.environ.get(_EMULATION, "0") not in ("", "0"):',
)
@reaches("products/fp64.py", "return False")
def test_emulated_fp64_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fp64.multiplies_in_fp64(CUDA)
    monkeypatch.setenv("CUBLAS_EMULATE_DOUBLE_PRECISION", "1")
    assert not fp64.multiplies_in_fp64.__wrapped__(CUDA)
    assert fp64.multiplies_in_fp64.__wrapped__(CPU)


def spoiled() -> Problem:
    problem = problem_of(metric="l2", nonfinite="exclude")
    problem.queries[3, 5], problem.queries[7] = torch.nan, 1e30
    problem.prototypes[0][17, 2], problem.prototypes[1][1_000] = torch.inf, -torch.inf
    return problem


def test_nonfinite_vectors_are_excluded(screen: str) -> None:
    problem = spoiled()
    assert_found(problem, screen)
    whole = torch.cat(problem.prototypes)
    assert_found(problem.replace(prototypes=[whole * 1e25]), screen)  # too large for codes


def test_nonfinite_vectors_are_named(screen: str) -> None:
    problem = spoiled().replace(nonfinite="raise")
    with pytest.raises(ValueError, match=r"prototypes must be finite.* rows 17, 2301"):
        found(problem.replace(queries=problem.queries[10:]), screen)
    clean = [p.nan_to_num(0, 0, 0) for p in problem.prototypes]
    with pytest.raises(ValueError, match=r"queries must be finite.* row 3"):
        found(problem.replace(prototypes=clean), screen)


def test_what_ties_is_repaired(screen: str) -> None:
    problem = problem_of("identical")
    problem = problem.replace(queries=torch.cat(problem.prototypes)[:QUERIES])
    assert_found(problem, screen)
    if screen != "vectors":
        bank = bank_of(problem, screen)
        bank.topk(problem.queries.cuda(), 10)
        assert (bank.stats.repaired, bank.stats.certified) == (QUERIES, 0)


def test_views_of_any_strides(screen: str) -> None:
    q, p = drawn("gaussian", 33, 80, 1).T, drawn("gaussian", 33, 4_000, 2).T
    assert not q.is_contiguous()
    assert_found(Problem(q[::2], [p[:2_000], p[2_000:2_001].expand(700, -1)], 9, "dot"), screen)


def test_additions_removals_and_ids(screen: str) -> None:
    problem = problem_of("duplicates", "dot")
    first, second = problem.prototypes
    bank = bank_of(problem.replace(prototypes=[first]), screen)
    ids = bank.add(second.cuda())
    assert (ids.device, ids[0]) == (CUDA, FIRST)
    for gone in (torch.arange(0, 800, 2), torch.arange(1, 800, 2), torch.arange(800, 2_300)):
        bank.remove(gone.cuda())
        left = torch.cat(problem.prototypes)[bank.ids.cpu()]
        mask = torch.rand(QUERIES, len(left)) < 0.5
        for allowed in (None, mask[0], mask):
            there = allowed if allowed is None else allowed.cuda()
            part = problem.replace(prototypes=[left], mask=allowed)
            assert_exact(bank.topk(problem.queries.cuda(), 10, mask=there), part)
        assert torch.equal(bank.vectors(torch.tensor([3], device=CUDA)), left[3:4])
        bank.check()


def test_a_file_moves_between_devices(screen: str, tmp_path: Path) -> None:
    problem = problem_of()
    bank_of(problem, screen).save(tmp_path / "bank.safetensors")
    for device in ("cpu", "cuda"):
        again = PrototypeBank.load(tmp_path / "bank.safetensors", device, check=True)
        assert again.device.type == device
        assert_exact(again.topk(problem.queries.cuda(), 10), problem)
        again.save(tmp_path / "again.safetensors")
        once_more = PrototypeBank.load(tmp_path / "again.safetensors", "cuda")
        assert_exact(once_more.topk(problem.queries, 10), problem)


@reaches("storage/counts.py", 'if self._device.type == "cuda":')
@reaches("storage/counts.py", "torch.cuda.synchronize(self._device)")
@reaches(
    "storage/counts.py", "self._repaired.index_add_(0, self._first, repaired.long().reshape(1))"
)
def test_counts() -> None:
    counts, nothing = Counts(CUDA), torch.empty(0)
    for repaired in (torch.tensor(2, device=CUDA), torch.tensor([1], device=CUDA).int(), 4):
        counts.add(10, Found(nothing, nothing, repaired, 5, 6))
    stats = counts.read()
    assert (stats.queries, stats.repaired, stats.certified) == (30, 7, 23)
    assert (stats.rows_rescored, stats.bytes_screened) == (15, 18)


def graded(device: torch.device, metric: str, by_engine: bool) -> list[Tensor]:
    """Gradients of queries, of prototypes on the device, and of others on the host."""
    q, here, host = (drawn("gaussian", n, 33, n).double() for n in (6, 300, 200))
    q, chunks = q.to(device), [here.to(device), host]
    grad = torch.linspace(-1, 1, 120).view(6, 20).to(device)
    if not by_engine:
        indices = topk(q, chunks, 20, metric=metric).indices
        return gradient.of_selected(grad, q, chunks, indices, metric, of_prototypes=True)
    inputs = [x.requires_grad_() for x in (q, *chunks)]
    topk(q, chunks, 20, metric=metric).scores.backward(grad)
    return [x.grad for x in inputs if x.grad is not None]


@pytest.mark.parametrize("by_engine", [False, pytest.param(True, marks=needs_a_card)])
@pytest.mark.parametrize("metric", METRICS)
@reaches("operators/gradient.py", "r, columns = rows[part], local[part].to(chunk.device)")
@reaches("operators/gradient.py", "p = p.to(queries.device, dtype)")
@reaches("operators/gradient.py", "grad_p[c].index_add_(0, columns, dp.to(chunk.device))")
def test_gradients_are_those_of_the_cpu(metric: str, by_engine: bool) -> None:
    ours, expected = (graded(device, metric, by_engine) for device in (CUDA, CPU))
    assert [x.device for x in ours] == [CUDA, CUDA, CPU]
    for mine, theirs in zip(ours, expected, strict=True):
        torch.testing.assert_close(mine.cpu(), theirs, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("metric", METRICS)
def test_within_a_threshold(metric: str, screen: str) -> None:
    """Of few and of all, by vectors and by a bank, which gives back where queries are."""
    problem = problem_of("duplicates", metric)
    q, p = problem.queries, torch.cat(problem.prototypes)
    middle = float(topk(q, p, 200, metric=metric).scores[:, -1].median())
    bank = bank_of(problem, screen)
    for threshold in (middle, -1e30):
        wanted = within(q, p, threshold, metric=metric)
        for found in (
            within(q.cuda(), p.cuda(), threshold, metric=metric),
            bank.within(q.cuda(), threshold),
        ):
            assert found.scores.device == CUDA
            assert all(map(torch.equal, (part.cpu() for part in found), wanted))
        assert all(map(torch.equal, bank.within(q, threshold), wanted))
    few = bank_of(problem.replace(prototypes=[p[:300]]), screen)
    wanted = PrototypeBank(p[:300], metric=metric).pairs(middle)
    assert all(map(torch.equal, (part.cpu() for part in few.pairs(middle)), wanted))


@needs_a_card
@reaches("arrays/taken.py", "if not torch.cuda.is_available():")
@reaches("arrays/taken.py", 'return torch.as_tensor(value, device="cuda")')
def test_arrays_of_others_on_a_gpu() -> None:
    """By their interface alone, as Numba's and older CuPy's have it."""
    problem = problem_of()
    p = torch.cat(problem.prototypes).cuda()

    class Foreign:
        __cuda_array_interface__ = p.__cuda_array_interface__

    found = topk(problem.queries.cuda(), Foreign(), problem.k, metric=problem.metric)
    assert_exact(found, problem)


@reaches("notebook/tables.py", 'return "" if str(device) == "cpu" else f", on {device}"')
def test_a_notebook_says_where_matches_are() -> None:
    problem = problem_of()
    found = topk(problem.queries.cuda(), torch.cat(problem.prototypes).cuda(), problem.k)
    assert f"on {CUDA}" in found._repr_html_()


def test_under_vmap() -> None:
    problem = problem_of()
    q, p = problem.queries.cuda().view(4, 6, 33), torch.cat(problem.prototypes).cuda()
    batched = torch.func.vmap(lambda part: topk(part, p, 10))(q)
    assert_exact((batched[0].flatten(0, 1), batched[1].flatten(0, 1)), problem)


@needs_a_card
def test_compiled() -> None:
    problem = problem_of()
    p = torch.cat(problem.prototypes).cuda()
    search = torch.compile(lambda q: tuple(topk(q, p, 10)), fullgraph=True, backend="eager")
    assert_exact(search(problem.queries.cuda()), problem)


def test_in_inference_mode(screen: str) -> None:
    with torch.inference_mode():
        assert_found(problem_of(), screen)


def test_where_all_has_to_be_deterministic(screen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as torch asks of such programs
    torch.use_deterministic_algorithms(True)
    try:
        assert_found(problem_of("duplicates", "l2"), screen)
    finally:
        torch.use_deterministic_algorithms(False)


def test_default_device(screen: str) -> None:
    """What a program makes without saying where does not change where a search computes."""
    problem = problem_of()
    there = problem.queries.cuda(), [p.cuda() for p in problem.prototypes]
    torch.set_default_device("cuda")
    try:
        of_gpu = topk(*there, 10)
        of_cpu = topk(problem.queries, problem.prototypes, 10)
        of_bank = PrototypeBank(there[1]).topk(there[0], 10)
    finally:
        torch.set_default_device(None)
    for matches in (of_gpu, of_cpu, of_bank):
        assert_exact(matches, problem)


@reaches(
    "contract/arguments.py",
    'there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]',
)
def test_a_device_that_is_not_there() -> None:
    assert require_device("device", "cuda") == CUDA
    with pytest.raises(
        ValueError, match=r"device must be a device that torch has here, .*'cuda:0'"
    ):
        require_device("device", "meta")


@needs_a_card
@reaches("machine.py", "if torch.cuda.is_available():")
@reaches("machine.py", "for index in range(torch.cuda.device_count()):")
@reaches("machine.py", 'rows += _searches(torch.device("cuda", index))')
@reaches("machine.py", 'if device.type == "cpu":')
@reaches(
    "machine.py",
    'least = cpu_plan.CODES_ELEMENTS // 2 if device.type == "cpu" else plan.CODES_ELEMENTS',
)
@reaches("machine.py", 'if device.type != "cuda":')
@reaches("machine.py", "major, minor = torch.cuda.get_device_capability(device)")
@reaches("machine.py", "memory = torch.cuda.get_device_properties(device).total_memory / 2**30")
@reaches(
    "machine.py",
    'return f" ({torch.cuda.get_device_name(device)}, sm_{major}{minor}, {memory:.0f} GiB)"',
)
def test_the_report_of_this_machine() -> None:
    text = machine.report()
    assert torch.cuda.get_device_name(0) in text
    assert "fp32 operands are rounded as IEEE" in text


@needs_a_card
def test_all_that_is_launched_is_launched_on_the_current_stream(screen: str) -> None:
    """The queries appear late on a stream of their own; the default stream would not wait."""
    problem = problem_of()
    bank, there = bank_of(problem, screen), problem.queries.cuda()
    chunks = [p.pin_memory() for p in problem.prototypes]
    queries = torch.zeros_like(there)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(BUSY_CYCLES)
        queries.copy_(there)
        of_bank, of_host = bank.topk(queries, 10), topk(queries, chunks, 10, chunk_rows=900)
        torch.cuda.current_stream().synchronize()
        assert_exact(of_bank, problem)
        assert_exact(of_host, problem)


@needs_a_card
@pytest.mark.parametrize(("queries", "k"), [(9, 10), (3_000, 10), (500, 1_000)])
def test_workspace(queries: int, k: int, screen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    budget = 64 * 2**20
    monkeypatch.setattr(kernels, "WORKSPACE_BYTES", budget)
    q, p = torch.randn(queries, 128, device="cuda"), torch.randn(100_000, 128, device="cuda")
    bank = PrototypeBank(p, screen="float" if screen == "vectors" else "int8")
    bank.topk(q[:64], 10)  # what libraries allocate at first is not workspace
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    bank.topk(q, k)
    held = torch.cuda.max_memory_allocated() - before - queries * k * 12
    assert held <= budget
