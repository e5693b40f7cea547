"""A bank is a succession of states: what fails changes nothing, and nobody sees half a change."""

import copy
import multiprocessing
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from faults.banks import change_and_answer, is_consistent
from programs import in_threads
from screens import SCREENS, needs_int8
from stopped import stopped_at
from torch import Tensor

from flashmatch import topk
from flashmatch.kernels import PrototypeBank
from flashmatch.kernels.codes import pages
from flashmatch.kernels.storage import coder, collection
from flashmatch.kernels.storage.ids import by_row

CHANNELS = 12
pytestmark = pytest.mark.usefixtures("screened_small")


@pytest.fixture(params=SCREENS)
def bank(request: pytest.FixtureRequest) -> PrototypeBank:
    bank = PrototypeBank(rows_of(2500), metric="dot", screen=request.param)
    bank.add(rows_of(100, 1))
    return bank


def rows_of(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, CHANNELS, generator=torch.Generator().manual_seed(seed))


def shown(bank: PrototypeBank) -> tuple[list, ...]:
    scores, indices = bank.topk(rows_of(4, 9), 5)
    return bank.ids.tolist(), scores.tolist(), indices.tolist(), bank.vectors().tolist()


def add(bank: PrototypeBank) -> None:
    bank.add(rows_of(1500, 2) * 2)


def remove(bank: PrototypeBank) -> None:
    bank.remove(bank.ids[:900:3])


def remove_most(bank: PrototypeBank) -> None:
    bank.remove(bank.ids[100:-500])


CHANGES = [add, remove, remove_most]


@pytest.mark.parametrize("change", CHANGES)
def test_stopped_at_any_line(bank: PrototypeBank, change: Callable) -> None:
    """The state is the old one or the new one, and the bank goes on from there."""
    twin = copy.deepcopy(bank)
    change(twin)
    old, new = shown(bank), shown(twin)
    line, stops, outcomes = 1, 0, set()
    while True:
        trial = copy.copy(bank)
        was_stopped = stopped_at(line, lambda trial=trial: change(trial))
        found = shown(trial)
        assert found in (old, new)
        outcomes.add(found == new)
        if line % 7 == 0:
            trial.check()
            add(trial)
            assert is_consistent(trial)
        assert shown(bank) == old
        if not was_stopped:
            break
        stops, line = stops + 1, line + 1 + line // 12
    assert found == new
    assert stops > 20
    assert outcomes == {True, False}


STEPS = [
    (by_row.Ids, "appended"),
    (by_row.Ids, "removed"),
    (by_row.Ids, "compacted"),
    (by_row.Ids, "required"),
    (collection.Collection, "appended"),
    (collection.Collection, "removed"),
    (collection.Collection, "compacted"),
    (collection.Collection, "matchable"),
    (pages.Codes, "write"),
    (pages.Codes, "_write"),
    (pages.Codes, "close"),
    (pages.Codes, "closed"),
    (pages.Codes, "extended"),
    (pages.Codes, "_allocate"),
    (coder, "cleaned"),
]


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(("owner", "name"), STEPS)
@pytest.mark.parametrize("change", CHANGES)
def test_without_memory_at_any_step(
    bank: PrototypeBank,
    change: Callable,
    owner: object,
    name: str,
    after: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before, original, failed = shown(bank), getattr(owner, name), []

    def fail(*arguments: object, **options: object) -> object:
        if after:
            original(*arguments, **options)
        failed.append(name)
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fail)
        try:
            change(bank)
        except MemoryError:
            assert failed
        else:
            assert not failed
            return
    assert shown(bank) == before
    bank.check()
    for each in CHANGES:
        each(bank)
        assert is_consistent(bank)


COPIES = [copy.copy, copy.deepcopy, lambda bank: pickle.loads(pickle.dumps(bank))]


@pytest.mark.parametrize("copied", COPIES)
def test_a_copy_is_a_bank_of_its_own(bank: PrototypeBank, copied: Callable) -> None:
    remove(bank)
    bank.topk(rows_of(3), 2)
    other = copied(bank)
    assert other.stats == bank.stats
    before = shown(bank)
    assert shown(other) == before
    other.topk(rows_of(3), 2)
    assert other.stats.queries == bank.stats.queries + 3
    for each in (add, remove_most, add):
        each(other)
        assert is_consistent(other)
        other.check()
    assert shown(bank) == before
    bank.check()


@pytest.mark.parametrize("copied", COPIES)
def test_copies_that_grow_at_once_do_not_meet(bank: PrototypeBank, copied: Callable) -> None:
    """They share memory, and what lies behind it belongs to one."""
    bank.add(rows_of(3000, 3))  # from here on whole pages are followed by room
    banks = [bank, copied(bank), copied(bank)]
    rows = [bank.vectors() for _ in banks]
    for turn in range(6):
        for i, each in enumerate(banks):
            fresh = rows_of(700 + 100 * i, 10 * turn + i) * (1 + i)
            each.add(fresh)
            rows[i] = torch.cat([rows[i], fresh])
    for each, expected in zip(banks, rows, strict=True):
        assert torch.equal(each.vectors(), expected)
        assert is_consistent(each)
        each.check()


def test_a_view_stays_as_it_was(bank: PrototypeBank) -> None:
    views = []
    for turn in range(12):
        views.append((copy.copy(bank), shown(bank)))
        (add if turn % 3 else remove_most if turn == 6 else remove_some)(bank)
    for view, before in views:
        assert shown(view) == before


def remove_some(bank: PrototypeBank) -> None:
    bank.remove(bank.ids[::7])


@needs_int8
def test_changes_cost_what_they_touch(coded_rows: list[int]) -> None:
    """Nothing but the last page is coded again, whatever is shared."""
    bank = PrototypeBank(rows_of(5000), screen="int8")
    del coded_rows[:]
    for count in (1, 1, 10, 2000, 1):
        bank.add(rows_of(count))
    assert sum(coded_rows) <= 2013 + 6 * 1023
    copied = [tensor.data_ptr() for tensor in bank._state.coder.codes._tensors()]
    for _ in range(3):  # with room behind them, whole pages are shared
        bank.add(rows_of(1100))
    shared = [tensor.data_ptr() for tensor in bank._state.coder.codes._tensors()]
    assert shared[0] == copied[0] or bank._state.coder.codes.count > 7 * 1024


def test_readers_never_wait_for_a_writer(bank: PrototypeBank) -> None:
    before = shown(bank)
    with bank._states._turn:
        assert shown(bank) == before
        assert shown(copy.copy(bank)) == before


def test_writers_wait_for_one_another(bank: PrototypeBank) -> None:
    def write(first: int) -> None:
        for n in range(20):
            bank.add(rows_of(10, first + n), ids=range(first + 10 * n, first + 10 * n + 10))

    in_threads(write, range(10**6, 6 * 10**6, 10**6))
    assert len(bank) == 2600 + 5 * 200
    expected = {10**6 * i + n for i in range(1, 6) for n in range(200)}
    assert set(bank.ids[2600:].tolist()) == expected
    assert is_consistent(bank)


def test_stats_lose_no_counts(bank: PrototypeBank) -> None:
    before, interval = bank.stats, sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        in_threads(lambda _: [bank.topk(rows_of(3), 2) for _ in range(25)], range(8))
    finally:
        sys.setswitchinterval(interval)
    after = bank.stats
    assert after.queries - before.queries == 8 * 25 * 3
    assert after.certified + after.repaired == after.queries
    once = (after.bytes_screened - before.bytes_screened) / 200
    bank.topk(rows_of(3), 2)
    assert bank.stats.bytes_screened - after.bytes_screened == once


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_in_another_process(bank: PrototypeBank, method: str, tmp_path: Path) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip("not here")
    out = str(tmp_path / "answer.pt")
    with bank._states._turn:  # whoever writes at the fork is not there to end it
        process = multiprocessing.get_context(method).Process(
            target=change_and_answer, args=(bank, out)
        )
        process.start()
        process.join(60)
    assert process.exitcode == 0
    assert len(bank) == 2600
    change_and_answer(bank, str(tmp_path / "here.pt"))
    for there, here in zip(torch.load(out), torch.load(tmp_path / "here.pt"), strict=True):
        assert torch.equal(there, here)


def test_ids_are_the_callers_own(bank: PrototypeBank) -> None:
    bank.ids.fill_(-1)
    assert bank.ids[:3].tolist() == [0, 1, 2]
    bank.remove(5)
    bank.ids.fill_(-1)
    assert bank.ids[4:6].tolist() == [4, 6]


def test_a_bank_that_changed_is_no_longer_a_graphs(bank: PrototypeBank) -> None:
    compiled = torch.compile(lambda q: bank.topk(q, 3), fullgraph=True, backend="aot_eager")
    queries = rows_of(4, 9)
    for change in (add, remove, remove_most):
        for found in (compiled(queries), bank.topk(queries, 3)):
            expected = topk(queries, bank.vectors(), 3, metric="dot")
            assert all(map(torch.equal, found, expected))
        change(bank)
