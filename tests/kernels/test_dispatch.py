"""Which backend searches, the reasons why another does not, and the way that leads there."""

import logging
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from screens import SCREENS, screen_small
from torch import Tensor

from flashmatch import PrototypeBank, topk
from flashmatch.kernels import dispatch
from flashmatch.kernels.contract.matches import Found
from flashmatch.kernels.products import choice, halves
from flashmatch.kernels.torch_backend import float_search, int8_search
from flashmatch.kernels.torch_backend import plan as torch_plan
from flashmatch.kernels.torch_backend.cpu import coded, shares
from flashmatch.kernels.torch_backend.cpu import plan as cpu_plan

P, Q = torch.randn(300, 8), torch.randn(3, 8)
KERNELS = Path(dispatch.__file__).parent


def way(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Filled with (file, function) of kernels/, from the door to the backend."""
    found: list[tuple[str, str]] = []
    for module, name in (
        (float_search, "search_vectors"),
        (coded, "search_shared"),
        (shares, "search"),
    ):
        body = getattr(module, name)

        def seen(*args, body=body):
            frames = traceback.extract_stack()[:-1]
            inside = [f for f in frames if KERNELS in Path(f.filename).parents]
            found.extend((str(Path(f.filename).relative_to(KERNELS)), f.name) for f in inside)
            return body(*args)

        monkeypatch.setattr(module, name, seen)
    return found


@pytest.mark.parametrize("screen", SCREENS)
def test_a_bank_reaches_the_backend_by_a_straight_way(
    screen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen_small(monkeypatch)
    bank, found = PrototypeBank(P, screen=screen), way(monkeypatch)
    bank.topk(Q, 2)
    assert len(set(found)) == len(found)
    files = list(dict.fromkeys(file for file, _ in found if file != "concurrency/fit_thread.py"))
    assert files == [
        "bank.py",
        "operators/transforms.py",
        "operators/topk_operator.py",
        "dispatch.py",
    ]


def test_topk_reaches_the_backend_by_a_straight_way(monkeypatch: pytest.MonkeyPatch) -> None:
    found = way(monkeypatch)
    topk(Q, P, 2)
    assert len(set(found)) == len(found)
    files = [file for file, _ in found if file != "concurrency/fit_thread.py"]
    assert list(dict.fromkeys(files)) == [
        "topk.py",
        "operators/transforms.py",
        "operators/topk_operator.py",
        "dispatch.py",
    ]


def test_a_search_on_a_gpu_says_why_triton_does_not_take_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    gpu = torch.device("cuda", 0)
    why_not = dispatch.why_no_triton(gpu)
    assert "sm_80" in why_not or "cannot be imported" in why_not
    with caplog.at_level(logging.DEBUG, logger="flashmatch"):
        for device in (gpu, torch.device("cpu")):
            assert dispatch._by_triton(device, lambda door: (None, "asked")) is None
    assert caplog.messages == [f"the torch backend searches on cuda:0: {why_not}"]


def test_the_torch_backend_takes_what_triton_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    triton_search = pytest.importorskip("flashmatch.kernels.triton_backend.vector_search")
    expected, asked = topk(Q, P, 2), []
    monkeypatch.setattr(dispatch, "why_no_triton", lambda device: "")
    monkeypatch.setattr(triton_search, "why_not_vectors", lambda *args: asked.append(args) or "no")
    assert all(map(torch.equal, topk(Q, P, 2), expected))
    assert len(asked) == 1


@pytest.mark.parametrize("screen", ["float", "int8"])
def test_a_bank_by_triton_refuses_queries_behind_its_search(
    screen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU, looking at them before would be a wait."""
    pytest.importorskip("flashmatch.kernels.triton_backend")
    from flashmatch.kernels.triton_backend.selfcheck import entrance

    bank, order = PrototypeBank(P, screen=screen), []
    matches = bank.topk(Q, 2)

    def found(name: str) -> Callable[..., tuple[Found, str]]:
        def search(queries: Tensor, *_: object) -> tuple[Found, str]:
            order.append(name)
            bad = (~queries.isfinite()).any().int()
            return Found(matches.scores, matches.indices, 0, 0, 0, bad), ""

        return search

    monkeypatch.setattr(dispatch, "why_no_triton", lambda device: "")
    monkeypatch.setattr(entrance, "search_vectors", found("vectors"))
    monkeypatch.setattr(entrance, "search_codes", found("codes"))
    refuse = dispatch.require_finite
    monkeypatch.setattr(
        dispatch, "require_finite", lambda *of: (order.append("refused"), refuse(*of))
    )
    bank.topk(Q, 2)
    with pytest.raises(ValueError, match="queries"):
        bank.topk(Q.masked_fill(torch.arange(Q.shape[1]) == 1, torch.nan), 2)
    by = "vectors" if bank.screen == "float" else "codes"
    assert order == [by, by, "refused"]


def test_int8_is_refused_where_it_cannot_be_exact() -> None:
    cpu = torch.device("cpu")
    assert dispatch.layout_for(cpu, 64, "float") is None
    assert dispatch.layout_for(cpu, 1 << 16, "auto") is None
    with pytest.raises(ValueError, match=r"screen must not be 'int8'.*; got 65536 channels on cpu"):
        dispatch.layout_for(cpu, 1 << 16, "int8")


def test_prototypes_in_chunks_are_coded_whatever_bf16_can_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rounding to bf16 is for searches in one pass."""
    for module, name in ((halves, "are_fast"), (halves, "are_exact"), (choice, "codes_in_passing")):
        monkeypatch.setattr(module, name, lambda *about: True)
    monkeypatch.setattr(cpu_plan, "_LEAST_ROUNDED", (1, 1))
    monkeypatch.setattr(torch_plan, "coding_pays", lambda *shape: True)
    monkeypatch.setattr(torch_plan, "CODES_ROWS", 1)
    calls, search = [], int8_search.search_while_coding
    monkeypatch.setattr(
        int8_search, "search_while_coding", lambda *a: calls.append(a) or search(*a)
    )
    q, p = torch.randn(8, 40), torch.randn(3000, 40)
    topk(q, p, 5)
    assert not calls
    topk(q, p, 5, chunk_rows=1024)
    assert len(calls) == 1
