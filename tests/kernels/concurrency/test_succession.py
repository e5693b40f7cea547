"""States that follow one another, and turns that nobody can leave locked."""

import os
import pickle
import threading
import time
from collections.abc import Callable

import pytest
from programs import in_threads
from stopped import stopped_at

from flashmatch.kernels.concurrency.room import Room
from flashmatch.kernels.concurrency.succession import Succession
from flashmatch.kernels.concurrency.turn import Turn

Numbers = tuple[int, ...]


def with_more(number: int) -> Callable[[Numbers], tuple[Numbers, int]]:
    return lambda numbers: ((*numbers, number), len(numbers))


def test_every_change_is_made_once() -> None:
    states = Succession(())

    def change(first: int) -> list[int]:
        return [states.change(with_more(number)) for number in range(first, 2000, 8)]

    results = in_threads(change, range(8))
    assert sorted(states.newest) == list(range(2000))
    assert sorted(number for each in results for number in each) == list(range(2000))


def test_changes_that_meet_are_made_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Should two be let in: no turn is needed for nothing to be lost."""
    monkeypatch.setattr(Turn, "__enter__", lambda _: None)
    monkeypatch.setattr(Turn, "__exit__", lambda *_: None)
    states, both, made = Succession(()), threading.Barrier(2), []

    def change(number: int) -> None:
        def make(numbers: Numbers) -> tuple[Numbers, None]:
            made.append(number)
            if not numbers:
                both.wait(10)
            return (*numbers, number), None

        states.change(make)

    in_threads(change, range(2))
    assert sorted(states.newest) == [0, 1]
    assert len(made) == 3


def test_a_change_that_fails_changes_nothing() -> None:
    states = Succession((1,))
    with pytest.raises(ZeroDivisionError):
        states.change(lambda numbers: (numbers, 1 // 0))
    assert states.newest == (1,)
    assert states.change(with_more(2)) == 1


def test_a_change_that_is_stopped_at_any_line() -> None:
    states, line, number = Succession(()), 1, 0
    while True:
        before, number = states.newest, number + 1
        was_stopped = stopped_at(line, lambda number=number: states.change(with_more(number)))
        assert states.newest in (before, (*before, number))
        in_threads(lambda n: states.change(with_more(-n)), [number])
        states.change(with_more(0))  # nobody waits for whoever was stopped
        assert states.newest[-2:] == (-number, 0)
        if not was_stopped:
            break
        line += 1
    assert line > 15


def test_a_change_within_a_change() -> None:
    """As a finalizer may make, that runs in between: both count."""
    states = Succession(())

    def make(numbers: Numbers) -> tuple[Numbers, None]:
        if not numbers:
            states.change(with_more(1))
        return (*numbers, 2), None

    states.change(make)
    assert states.newest == (1, 2)
    in_threads(states.change, [with_more(3)])
    assert states.newest == (1, 2, 3)


def test_a_turn_lets_one_in_at_a_time() -> None:
    turn, inside, most = Turn(), [], []

    def work(number: int) -> None:
        for _ in range(5):
            with turn:
                inside.append(number)
                time.sleep(0.002)
                most.append(len(inside))
                inside.remove(number)

    in_threads(work, range(8))
    assert most == [1] * 40


def test_a_turn_waits_for_as_long_as_it_takes() -> None:
    turn, order = Turn(), []

    def work(number: int) -> None:
        time.sleep(0.02 * number)
        with turn:
            time.sleep(0.3)
            order.append(number)

    in_threads(work, range(3))
    assert order[0] == 0
    assert len(order) == 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")
def test_a_forked_child_waits_for_nobody() -> None:
    states, is_inside, may_leave = Succession(()), threading.Event(), threading.Event()

    def make(numbers: Numbers) -> tuple[Numbers, None]:
        is_inside.set()
        may_leave.wait(60)
        return (*numbers, 1), None

    thread = threading.Thread(target=lambda: states.change(make))
    thread.start()
    is_inside.wait(60)
    child = os.fork()
    if child == 0:
        states.change(with_more(2))
        os._exit(states.newest != (2,))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    may_leave.set()
    thread.join(60)
    assert states.newest == (1,)


def test_turns_are_pickled_open() -> None:
    turn = Turn()
    with turn:
        copied = pickle.loads(pickle.dumps(turn))
    in_threads(Turn.__enter__, [copied])


def test_room_is_claimed_once() -> None:
    room = Room(3)
    claimed = in_threads(lambda i: room.claim(3, 10 + i), range(8))
    assert sorted(claimed) == [False] * 7 + [True]
    assert not room.claim(3, 4)
    assert not room.claim(7, 8)
    assert pickle.loads(pickle.dumps(Room(5))).claim(5, 6)
