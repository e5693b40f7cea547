"""What a search holds beyond inputs and outputs stays within WORKSPACE_BYTES."""

from functools import partial

import numpy as np
import pytest
import torch
from allocations import peak_bytes
from problems import METRICS, vectors
from screens import search_in_general

from flashmatch import PrototypeBank, kernels, topk
from flashmatch.kernels import dispatch
from flashmatch.kernels.products import halves
from flashmatch.kernels.torch_backend.cpu import plan as cpu_plan
from flashmatch.kernels.torch_backend.cpu import shares

MIB = 2**20


def test_peak_bytes_sees_a_temporary() -> None:
    assert peak_bytes(lambda: (torch.zeros(MIB) + 1).sum()) == pytest.approx(8 * MIB, rel=0.01)


def test_peak_bytes_sees_what_numpy_and_all_workers_hold() -> None:
    def task(rows: int) -> float:
        return float(torch.zeros(rows).sum()) + float(np.zeros(rows).sum())

    def call() -> None:
        kept = torch.zeros(MIB)
        shares.in_workers([partial(task, MIB), partial(task, 2 * MIB), partial(task, MIB)], 2)
        assert len(kept) == MIB

    # 4 MiB are kept, and two workers hold 8 of torch's and 16 of NumPy's each
    assert peak_bytes(call) == pytest.approx(52 * MIB, rel=0.01)


SHAPES = [
    (1, 100_000, 16, 10),
    (3000, 3000, 32, 10),
    (200, 4000, 32, 4000),  # everything, sorted
    (50, 10_000, 16, 1500),
    (300, 300, 6000, 5),  # wide vectors
]


@pytest.mark.parametrize("way", ["general", "one pass"])
@pytest.mark.parametrize("kind", ["gaussian", "identical", "sorted"])
@pytest.mark.parametrize(("queries", "rows", "channels", "k"), SHAPES)
def test_within_the_workspace(
    queries: int,
    rows: int,
    channels: int,
    k: int,
    kind: str,
    way: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    workspace = 16 * MIB
    monkeypatch.setattr(kernels, "WORKSPACE_BYTES", workspace)
    if way == "general":
        search_in_general(monkeypatch)
    generator = torch.Generator().manual_seed(1)
    q, p = (vectors(kind, n, channels, generator).float() for n in (queries, rows))
    topk(q, p, 1)  # what is measured once in a process is no part of a search
    outputs = queries * k * 12
    assert peak_bytes(lambda: topk(q, p, k)) - outputs <= workspace


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("queries", "rows", "channels", "k"),
    [
        (400, 5000, 100, 10),
        (3, 200_000, 16, 300),
        (100, 9000, 32, 1000),
        (64, 600, 3000, 5),
        (400, 2500, 1000, 100),  # rows widened tile by tile, and vectors rounded to bf16
        (400, 60_000, 260, 10),
    ],
)
def test_all_workers_together_stay_within_the_workspace(
    queries: int,
    rows: int,
    channels: int,
    k: int,
    metric: str,
    kept: bool,
    mask: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of raw halves, which are widened as they are read, and of a bank's."""
    workspace, workers = 64 * MIB, []
    monkeypatch.setattr(kernels, "WORKSPACE_BYTES", workspace)
    monkeypatch.setattr(cpu_plan, "SHARED_WORK", 0)
    monkeypatch.setattr(cpu_plan, "WHOLE_PRODUCTS", 0)
    monkeypatch.setattr(halves, "are_fast", lambda *setting: True)

    def choose(*shape: int) -> cpu_plan.OnePass:
        plan = cpu_plan.choose_one_pass(*shape[:5], 4, *shape[6:])
        assert plan is not None
        workers.append(plan.workers)
        return plan

    monkeypatch.setattr(dispatch, "choose_one_pass", choose)
    generator = torch.Generator().manual_seed(1)
    q, p = (vectors("gaussian", n, channels, generator).half() for n in (queries, rows))
    allowed = torch.rand(queries, rows, generator=generator) < 0.9 if mask else None
    search = partial(topk, q, p, k, metric=metric, mask=allowed)
    if kept:
        bank = PrototypeBank(p, metric=metric, screen="float")
        bank._state.operands  # noqa: B018  made once
        search = partial(bank.topk, q, k, mask=allowed)
    assert peak_bytes(search) - queries * k * 12 <= workspace
    assert set(workers) == {4}
