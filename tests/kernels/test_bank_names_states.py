"""States of banks of names: what fails changes nothing, and nobody sees half a change."""

import copy
import multiprocessing
import pickle
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from named import assert_same, names_of, rows_of, shown
from programs import in_threads
from screens import SCREENS
from stopped import stopped_at
from torch import Tensor

from flashmatch.kernels import PrototypeBank
from flashmatch.kernels.storage import prepared
from flashmatch.kernels.storage.ids import by_row, given, names

pytestmark = pytest.mark.usefixtures("poisoned_empty", "screened_small")


@pytest.fixture(params=SCREENS)
def screen(request: pytest.FixtureRequest) -> str:
    return request.param


COPIES = [copy.copy, copy.deepcopy, lambda bank: pickle.loads(pickle.dumps(bank))]


@pytest.mark.parametrize("copied", COPIES)
def test_a_copy_is_a_bank_of_its_own(copied: Callable, screen: str) -> None:
    rows = rows_of(60)
    bank = PrototypeBank(rows[:40], ids=names_of(40), screen=screen)
    bank.remove(["n5", "n6"])
    oracle = {f"n{i}": rows[i] for i in range(40) if i not in (5, 6)}
    banks = [bank, copied(bank), copied(bank)]
    oracles = [dict(oracle) for _ in banks]
    for turn in range(4):
        for i, (each, known) in enumerate(zip(banks, oracles, strict=True)):
            for name in ("n5", f"x{turn}", f"own{i}"):
                if name in known:
                    each.remove(name)
                    del known[name]
                each.add(rows[40 + i : 41 + i], ids=[name])
                known[name] = rows[40 + i]
    for each, known in zip(banks, oracles, strict=True):
        assert_same(each, known)
        each.check()


def test_a_view_stays_as_it_was() -> None:
    rows = rows_of(200)
    bank = PrototypeBank(rows[:100], ids=names_of(100))
    views = []
    for turn in range(12):
        views.append((copy.copy(bank), shown(bank)))
        bank.remove(bank.ids[:: 2 if turn == 6 else 9])
        bank.add(rows[turn : turn + 5], ids=names_of(5, f"{turn}, "))
    for view, before in views:
        assert shown(view) == before
        view.add(rows[:1], ids=["more"])
        assert view.ids.tolist() == [*before[0], "more"]


def add(bank: PrototypeBank) -> None:
    bank.add(rows_of(50, 2) * 2, ids=names_of(50, "new "))


def remove(bank: PrototypeBank) -> None:
    bank.remove(bank.ids[:90:3])


def remove_most(bank: PrototypeBank) -> None:
    bank.remove(bank.ids[10:-20])


CHANGES = [add, remove, remove_most]


def named_bank(screen: str) -> PrototypeBank:
    bank = PrototypeBank(rows_of(200), ids=names_of(200), screen=screen)
    bank.add(rows_of(10, 1), ids=names_of(10, "more "))
    return bank


@pytest.mark.parametrize("change", CHANGES)
def test_stopped_at_any_line(change: Callable) -> None:
    bank = named_bank("float")
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
        if line % 5 == 0:
            trial.add(rows_of(3, 7), ids=["later", "new 50", "new 51"])
            assert trial.ids.tolist() == [*found[0], "later", "new 50", "new 51"]
            trial.remove(["new 50", found[0][-1]])
        assert shown(bank) == old
        if not was_stopped:
            break
        stops, line = stops + 1, line + 1 + line // 12
    assert stops > 20
    assert outcomes == {True, False}


STEPS = [
    (names.Names, "appended"),
    (names.Names, "compacted"),
    (names.Names, "rows"),
    (names, "_note"),
    (by_row.Ids, "with_names"),
    (by_row.Ids, "_numbered"),
    (by_row, "as_ids"),
    (given, "_names"),
    (prepared, "as_returned"),
]


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(("owner", "name"), STEPS)
@pytest.mark.parametrize("change", CHANGES)
def test_without_memory_at_any_step(
    change: Callable,
    owner: object,
    name: str,
    after: bool,
    screen: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bank = named_bank(screen)
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
    twin = named_bank(screen)
    for each in CHANGES:
        each(bank)
        each(twin)
        assert shown(bank) == shown(twin)


def test_a_search_and_its_ids_are_of_one_state() -> None:
    """Each name says its vector, and is used again, with another version, at once."""
    count, stop = 60, threading.Event()
    base = torch.nn.functional.normalize(rows_of(count), dim=1)

    def vector(i: int, version: int) -> Tensor:
        return base[i] * (1 + version)

    bank = PrototypeBank(base, ids=[f"{i} 0" for i in range(count)], metric="dot")
    queries = rows_of(3, 1)

    def change(part: int) -> None:
        generator = np.random.default_rng(part)
        for version in range(1, 60):
            i = 3 * int(generator.integers(count // 3)) + part
            (old,) = [name for name in bank.ids.tolist() if name.startswith(f"{i} ")]
            bank.remove(old)
            bank.add(vector(i, version)[None], ids=[f"{i} {version}"])

    def look(_: int) -> int:
        looks = 0
        while not stop.is_set() or looks == 0:
            scores, ids = bank.search(queries, 8)
            parts = [[list(map(int, name.split())) for name in row] for row in ids.tolist()]
            vectors = torch.stack([torch.stack([vector(*pair) for pair in row]) for row in parts])
            expected = torch.einsum("qkc,qc->qk", vectors.double(), queries.double())
            torch.testing.assert_close(scores.double(), expected, rtol=1e-6, atol=1e-6)
            assert all(len({i for i, _ in row}) == 8 for row in parts)
            looks += 1
        return looks

    def run(task: tuple[Callable, int]) -> None:
        call, argument = task
        try:
            call(argument)
        finally:
            if call is change:
                done.append(argument)
                if len(done) == 3:
                    stop.set()

    done: list[int] = []
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        in_threads(run, [(change, 0), (change, 1), (change, 2), (look, 0), (look, 1)])
    finally:
        stop.set()
        sys.setswitchinterval(interval)
    assert len(bank) == count
    bank.check()


def test_writers_wait_for_one_another() -> None:
    bank = PrototypeBank(rows_of(10), ids=names_of(10))

    def write(part: int) -> None:
        for n in range(20):
            bank.add(rows_of(3, part), ids=[f"{part} {n} {j}" for j in range(3)])
            bank.remove(f"{part} {n} 1")

    in_threads(write, range(5))
    assert len(bank) == 10 + 5 * 20 * 2
    expected = {f"{p} {n} {j}" for p in range(5) for n in range(20) for j in (0, 2)}
    assert set(bank.ids[10:]) == expected


@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="this system has no fork"
)
def test_in_another_process(tmp_path: Path) -> None:
    bank, out = named_bank("float"), tmp_path / "answer"
    process = multiprocessing.get_context("fork").Process(target=answer, args=(bank, out))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert len(bank) == 210
    bank.add(rows_of(1, 5), ids=["there"])
    bank.remove("n0")
    assert pickle.loads(out.read_bytes()) == shown(bank)


def answer(bank: PrototypeBank, path: Path) -> None:
    torch.set_num_threads(1)
    bank.add(rows_of(1, 5), ids=["there"])
    bank.remove("n0")
    path.write_bytes(pickle.dumps(shown(bank)))
