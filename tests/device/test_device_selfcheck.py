"""The check of the kernels on a real card, and who answers where it fails."""

import warnings
from collections.abc import Iterator

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA or ROCm device", allow_module_level=True)
pytest.importorskip("triton")

from altered import Unlaunchable
from problems import Problem, assert_exact, vectors

from flashmatch import kernels, topk
from flashmatch.kernels.triton_backend import chips, stages
from flashmatch.kernels.triton_backend.selfcheck import verdict_file, verdicts
from flashmatch.kernels.triton_backend.selfcheck.checks import all_checks, variants

HERE = torch.device("cuda", torch.cuda.current_device())


@pytest.fixture(autouse=True)
def _unwarned(unknown_card: None) -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        yield


@pytest.mark.parametrize("variant", variants.defaults(chips.chip(HERE)), ids=str)
def test_every_default_is_right(variant: variants.Variant) -> None:
    assert all_checks.failures(variant, HERE) == []


def test_a_second_check_takes_less_than_two_seconds() -> None:
    """What Triton compiles, it compiles for the first."""
    first, second = kernels.selfcheck(), kernels.selfcheck()
    assert first, str(first)
    assert second, str(second)
    assert second.seconds < 2, f"{second.seconds} s"
    assert verdict_file.read(HERE) == set(second.passed)


def a_problem() -> Problem:
    generator = torch.Generator().manual_seed(8)
    q, p = (vectors("integers", n, 64, generator).float() for n in (300, 9000))
    return Problem(q, [p], 4, "dot", None, "raise", None)


def searched(problem: Problem) -> tuple[torch.Tensor, torch.Tensor]:
    prototypes = problem.prototypes[0].cuda()
    return topk(problem.queries.cuda(), prototypes, problem.k, metric=problem.metric)


def test_a_search_checks_what_it_launches_once() -> None:
    for _ in range(2):
        assert_exact(searched(a_problem()), a_problem())
    assert len(verdict_file.read(HERE)) == 1


def test_a_first_search_where_waiting_is_forbidden() -> None:
    problem = a_problem().replace(nonfinite="exclude")
    q, p = problem.queries.cuda(), problem.prototypes[0].cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = topk(q, p, problem.k, metric=problem.metric, nonfinite="exclude")
        assert torch.cuda.get_sync_debug_mode() == 2
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert_exact(found, problem)
    assert not verdicts.of_device(HERE).failed


def test_a_launch_that_fails_is_nobodys_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    error = RuntimeError("Triton Error [CUDA]: out of resources")
    monkeypatch.setattr(stages, "settle_kernel", Unlaunchable(error))
    with pytest.warns(RuntimeWarning, match="out of resources"):
        assert_exact(searched(a_problem()), a_problem())
    assert_exact(searched(a_problem()), a_problem())
    assert "out of resources" in verdicts.of_device(HERE).failed[0]
