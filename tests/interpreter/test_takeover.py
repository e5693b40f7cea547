"""What fails a check, does not launch or raises: the torch backend answers, after a warning."""

import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from altered import Unlaunchable, alter
from problems import Problem, assert_exact, vectors
from screens import screen_small
from torch import Tensor

from flashmatch import PrototypeBank, kernels, topk
from flashmatch.kernels import dispatch
from flashmatch.kernels.triton_backend import bank_search, chips, plan, stages, vector_search
from flashmatch.kernels.triton_backend.selfcheck import verdict_file, verdicts
from flashmatch.kernels.triton_backend.selfcheck.checks import all_checks, variants

pytestmark = pytest.mark.usefixtures("unknown_card")
CPU = torch.device("cpu")
Search = Callable[[Problem], tuple[Tensor, Tensor]]


@pytest.fixture
def _as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dispatch asks the Triton backend, whose kernels are interpreted here."""
    monkeypatch.setattr(dispatch, "why_no_triton", lambda device: "")
    monkeypatch.setattr(plan, "WHOLE_ELEMENTS", 0)  # every search is screened
    screen_small(monkeypatch)


@pytest.fixture
def _believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is checked passes, and takes no time."""
    monkeypatch.setattr(all_checks, "failures", lambda variant, device: [])


def a_problem() -> Problem:
    generator = torch.Generator().manual_seed(8)
    q, p = (vectors("integers", n, 64, generator).float() for n in (3, 300))
    return Problem(q, [p], 4, "dot", None, "raise", None)


def by_topk(problem: Problem) -> tuple[Tensor, Tensor]:
    return topk(problem.queries, problem.prototypes, problem.k, metric=problem.metric)


def by_bank(problem: Problem) -> tuple[Tensor, Tensor]:
    return PrototypeBank(problem.prototypes, metric=problem.metric).topk(problem.queries, problem.k)


def whole(search: Search) -> Search:
    """The same, of which every prototype is scored."""

    def searched(problem: Problem) -> tuple[Tensor, Tensor]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(plan, "WHOLE_ELEMENTS", 2**22)
            return search(problem)

    return searched


SEARCHES = pytest.mark.parametrize(
    ("search", "module", "name"),
    [
        (by_topk, vector_search, "search_vectors"),
        (by_bank, bank_search, "search_codes"),
        (whole(by_topk), vector_search, "search_vectors"),
        (whole(by_bank), vector_search, "search_with_flags"),
    ],
    ids=["topk", "bank", "topk of few", "bank of few"],
)


@SEARCHES
@pytest.mark.usefixtures("_as_on_a_gpu")
def test_what_was_checked_searches(
    search: Search, module: ModuleType, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem, calls = a_problem(), []
    if search in (by_topk, by_bank):
        monkeypatch.setattr(all_checks, "failures", lambda variant, device: [])  # they take long
    assert_exact(search(problem), problem)
    assert not verdicts.of_device(CPU).failed
    monkeypatch.setattr(all_checks, "failures", None)
    body = getattr(module, name)
    monkeypatch.setattr(module, name, lambda *args: calls.append(args) or body(*args))
    assert_exact(search(problem), problem)
    assert len(calls) == 1


def raising(error: Exception) -> Callable:
    """A function that does nothing else."""

    def body(*_: object) -> None:
        raise error

    return body


def warned_once(search: Search, problem: Problem, match: str) -> None:
    """Two searches are right; the first of them warns."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for _ in range(2):
            assert_exact(search(problem), problem)
    ours = [str(w.message) for w in seen if "flashmatch" in str(w.message)]
    assert len(ours) == 1
    assert match in ours[0]
    assert "`flashmatch info`" in ours[0]


@SEARCHES
@pytest.mark.usefixtures("_as_on_a_gpu")
def test_what_fails_its_check_never_answers(
    search: Search, module: ModuleType, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    alter(
        monkeypatch,
        tmp_path,
        "fp64",
        "score = score.to(tl.float32)",
        "score = (0 * score).to(tl.float32)",
    )
    warned_once(search, a_problem(), " rows, ")
    assert any("equal rows, scores" in wrong for wrong in verdicts.of_device(CPU).failed)
    assert verdict_file.read(CPU) == set()


@SEARCHES
@pytest.mark.usefixtures("_as_on_a_gpu")
def test_a_launch_that_fails_is_nobodys_answer(
    search: Search, module: ModuleType, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = RuntimeError("Triton Error [CUDA]:\n out of resources")
    for kernel in ("settle_kernel", "settle_all_kernel"):
        monkeypatch.setattr(stages, kernel, Unlaunchable(error))
    warned_once(search, a_problem(), "RuntimeError: Triton Error [CUDA]: out of resources")


@SEARCHES
@pytest.mark.usefixtures("_as_on_a_gpu", "_believed")
def test_an_exception_after_the_check_is_nobodys_answer(
    search: Search, module: ModuleType, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    search(a_problem())

    monkeypatch.setattr(module, name, raising(RuntimeError("an illegal memory access")))
    warned_once(search, a_problem(), "a search raised RuntimeError: an illegal memory access")


@SEARCHES
@pytest.mark.usefixtures("_as_on_a_gpu", "_believed")
def test_too_little_memory_is_no_verdict(
    search: Search, module: ModuleType, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    search(a_problem())

    with monkeypatch.context() as patch:
        patch.setattr(module, name, raising(torch.OutOfMemoryError("CUDA out of memory")))
        assert_exact(search(a_problem()), a_problem())
    assert not verdicts.of_device(CPU).failed


@pytest.mark.usefixtures("_as_on_a_gpu", "_believed")
def test_refusals_are_the_contracts(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = a_problem()
    problem.prototypes[0][7, 3] = torch.nan
    with pytest.raises(ValueError, match=r"prototypes must be finite.* row 7"):
        by_topk(problem)
    assert not verdicts.of_device(CPU).failed


@pytest.mark.parametrize("elements", [0, 2**22])
@pytest.mark.usefixtures("_as_on_a_gpu", "_believed")
def test_a_bank_refuses_queries_behind_its_search(
    elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the flags of the kernels: no norm is asked for before, and none where all is finite."""
    monkeypatch.setattr(plan, "WHOLE_ELEMENTS", elements)
    problem = a_problem()
    bank = PrototypeBank(problem.prototypes, metric=problem.metric)
    asked, refuse = [], dispatch.require_finite
    monkeypatch.setattr(dispatch, "require_finite", lambda *of: asked.append(of) or refuse(*of))
    bank.topk(problem.queries, problem.k)
    assert not asked
    problem.queries[2, 5] = torch.inf
    with pytest.raises(ValueError, match=r"queries must be finite.* row 2"):
        bank.topk(problem.queries, problem.k)
    assert len(asked) == 1
    assert not verdicts.of_device(CPU).failed


@pytest.mark.usefixtures("_as_on_a_gpu")
def test_checks_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(verdicts.OFF, "0")
    monkeypatch.setattr(all_checks, "failures", None)
    assert_exact(by_topk(a_problem()), a_problem())


def test_a_selfcheck_that_fails_is_believed_and_one_that_passes_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = variants.defaults(chips.chip(CPU))[0]
    monkeypatch.setattr(all_checks, "failures", lambda v, d: [f"{v}: no"] if v == first else [])
    with pytest.warns(RuntimeWarning, match="does not use its Triton kernels on cpu"):
        found = kernels.selfcheck("cpu")
    assert not found
    assert "14 of 15 variants are right" in str(found)
    assert found.failures == verdicts.of_device(CPU).failed == (f"{first}: no",)
    monkeypatch.setattr(all_checks, "failures", lambda v, d: [])
    assert kernels.selfcheck("cpu")
    assert not verdicts.of_device(CPU).failed


def test_a_device_without_kernels_is_refused() -> None:
    with pytest.raises(ValueError, match="device must be"):
        kernels.selfcheck("cuda")
