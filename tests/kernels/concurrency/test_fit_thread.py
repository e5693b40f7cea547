"""Searches where threads flush denormals, and in forked children, whose threads are lost."""

import sys

import pytest
import torch
from problems import METRICS
from programs import output_of

from flashmatch import PrototypeBank, topk, verify
from flashmatch.kernels.concurrency.fit_thread import in_fit_thread

pytestmark = pytest.mark.skipif(
    not torch.set_flush_denormal(False), reason="denormals cannot be flushed here"
)


@pytest.fixture
def flushing():
    """This thread flushes while the test runs."""
    torch.set_flush_denormal(True)
    yield
    torch.set_flush_denormal(False)


def tiny(rows: int = 3000) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries of denormals, and prototypes: scores are ordinary numbers."""
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(4, 8, generator=generator) * 1e-42
    return q, torch.randn(rows, 8, generator=generator) * 1e30


@pytest.mark.parametrize("rows", [20, 3000, 60_000])
@pytest.mark.parametrize("metric", METRICS)
def test_denormals_count_where_this_thread_flushes(metric: str, rows: int) -> None:
    q, p = tiny(rows)
    expected, bank = topk(q, p, 5, metric=metric), PrototypeBank(p, metric=metric)
    torch.set_flush_denormal(True)
    try:
        results = topk(q, p, 5, metric=metric), bank.topk(q, 5)
        made = PrototypeBank(p, metric=metric).topk(q, 5)
        report = verify(q, p, expected, metric=metric)
        wrong = verify(q, p, (expected.scores * 0, expected.indices), metric=metric)
        assert (torch.full((9,), 2.0**-126) * 0.5 == 0).all()  # as the caller wants it still
    finally:
        torch.set_flush_denormal(False)
    for found in (*results, made):
        assert all(map(torch.equal, found, expected))
    assert report
    if metric != "l2":
        assert not wrong


def run(program: str) -> str:
    """In a process of two threads, which nothing has woken yet."""
    program = (
        "import sys, torch\nfrom flashmatch import PrototypeBank, topk, verify\n"
        "torch.set_num_threads(2)\n" + program
    )
    return output_of("-c", program, timeout=120)


def test_denormals_count_where_another_thread_flushes() -> None:
    """Threads do as the one that started them, for good."""
    out = run("""
torch.set_flush_denormal(True)
torch.ones(1 << 20).mul_(2)
torch.set_flush_denormal(False)
shared = torch.full((1 << 20,), 2.0**-126)
print(bool((shared * 0.5 == 0).any()))
g = torch.Generator().manual_seed(0)
q, p = torch.randn(4, 8, generator=g) * 1e-42, torch.randn(60_000, 8, generator=g)
found = topk(q, p, 5)
exact = (q.double() @ p.double().T) / (1e-8 * p.double().norm(dim=1))
print(torch.equal(found.indices, exact.topk(5).indices), bool(verify(q, p, found)))
""")
    assert out.split() == ["True", "True", "True"]


FRESH = """
import os, torch
p, q = torch.ones(40_000, 128), torch.ones(300, 128)
p.mul_(2)  # threads are there, and nothing of this library has run
child = os.fork()
if child == 0:
    found = topk(q, p, 5), PrototypeBank(p, screen="{screen}").topk(q, 5)
    os._exit(any(matches.indices[7].tolist() != [0, 1, 2, 3, 4] for matches in found))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""

FORKED = """
import os, torch
g = torch.Generator().manual_seed(0)
p, q = torch.randn(60_000, 32, generator=g), torch.randn(50, 32, generator=g)
bank, fresh = PrototypeBank(p, screen="{screen}"), torch.randn(5000, 32, generator=g)
expected = bank.topk(q, 5)
child = os.fork()
if child == 0:
    try:
        assert torch.equal(topk(q, p, 5).indices, expected.indices)
        assert torch.equal(bank.topk(q, 5).indices, expected.indices)
        assert verify(q, p, expected)
        bank.add(fresh)
        bank.remove(range(40_000))
        bank.check()
        assert torch.equal(bank.topk(q, 5).indices, topk(q, bank.vectors(), 5).indices)
        bank.save("{path}")
    except BaseException as error:
        print(repr(error), flush=True)
        os._exit(1)
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
print(len(bank), len(PrototypeBank.load("{path}")))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
@pytest.mark.parametrize("screen", ["float", "auto"])
def test_a_forked_child_searches_and_changes_its_own_bank(screen: str, tmp_path) -> None:
    out = run(FORKED.format(screen=screen, path=tmp_path / "bank.safetensors"))
    assert out.split() == ["60000", "25000"]


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
@pytest.mark.parametrize("screen", ["float", "auto"])
def test_a_forked_child_that_is_the_first_to_search(screen: str) -> None:
    assert run(FRESH.format(screen=screen)).split() == ["0"]


def test_what_fails_in_a_fresh_thread_fails_here(flushing: None) -> None:
    with pytest.raises(ZeroDivisionError):
        in_fit_thread([torch.ones(1, 1)], lambda: 1 // 0)
    with pytest.raises(ValueError, match="k must be between"):
        topk(torch.ones(1, 2), torch.ones(3, 2), 4)
    with pytest.raises(ValueError, match="queries must be finite"):
        topk(torch.tensor([[1.0, torch.nan]]), torch.ones(3, 2), 1)


def test_gradients_and_inference_mode_where_this_thread_flushes(flushing: None) -> None:
    q, p = torch.randn(3, 8, requires_grad=True), torch.randn(500, 8)
    topk(q, p, 4).scores.sum().backward()
    flushed = q.grad.clone()
    torch.set_flush_denormal(False)
    q.grad = None
    topk(q, p, 4).scores.sum().backward()
    assert torch.allclose(q.grad, flushed)
    torch.set_flush_denormal(True)
    with torch.inference_mode():
        assert topk(q * 1, p, 4).scores.shape == (3, 4)
        assert PrototypeBank(p).topk(q * 1, 4).scores.shape == (3, 4)


def test_nothing_is_searched_where_denormals_cannot_be_had(
    flushing: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "set_flush_denormal", lambda mode: False)
    monkeypatch.setattr("flashmatch.kernels.concurrency.fit_thread._flushes", lambda: True)
    with pytest.raises(RuntimeError, match="flushed to zero here"):
        topk(torch.ones(1, 2), torch.ones(3, 2), 1)
    monkeypatch.undo()
