"""Threads that search a bank while others change it: every answer is that of one of its states."""

import copy
import random
import threading
import time
from collections import Counter, deque

import torch
from screens import CODED
from torch import Tensor

from flashmatch import PrototypeBank
from flashmatch.kernels.contract import reference

K = 5


class History:
    """The last states of a bank, each a view that nothing changes, and their numbers."""

    def __init__(self, bank: PrototypeBank) -> None:
        self.bank, self.lock = bank, threading.Lock()
        self.states: deque[tuple[int, PrototypeBank]] = deque([(0, copy.copy(bank))], maxlen=200)

    def change(self, chosen: random.Random, first_id: int) -> None:
        """Add or remove, and note the state: no other writer comes between."""
        with self.lock:
            ids = self.bank.ids
            if len(ids) < 1500 or chosen.random() < 0.55:
                count = chosen.choice((1, 30, 700))
                rows = torch.randn(count, self.bank.dim) * 2
                self.bank.add(rows, ids=range(first_id, first_id + count))
            else:
                gone = ids[torch.randperm(len(ids))[: chosen.choice((1, 40, len(ids) // 2 + 1))]]
                self.bank.remove(gone)
            self.states.append((self.states[-1][0] + 1, copy.copy(self.bank)))

    def newest(self) -> int:
        return self.states[-1][0]

    def since(self, first: int) -> list[PrototypeBank] | None:
        """The states from that number on, this one's included; None if it is forgotten."""
        with self.lock:  # until the last change is noted
            states = list(self.states)
        if states[0][0] > first:
            return None
        return [state for number, state in states if number >= first]


def run(seconds: float, seed: int, threads: int = 8, screen: str = CODED) -> Counter[str]:
    """Two of the threads write. The oracle, in fp64, says what each state answers."""
    torch.manual_seed(seed)
    history = History(PrototypeBank(torch.randn(2500, 8), screen=screen, metric="dot"))
    outcomes, until = Counter[str](), time.monotonic() + seconds
    counted = threading.Lock()

    def note(what: str) -> None:
        with counted:
            outcomes[what] += 1

    def write(number: int) -> None:
        chosen, first_id = random.Random(seed + number), 10**9 * (number + 1)
        while time.monotonic() < until:
            try:
                history.change(chosen, first_id)
                note("changes")
            except Exception as error:
                note(f"ESCAPED: {type(error).__name__} in a change")
            first_id += 700
            time.sleep(0.001)

    def read(number: int) -> None:
        generator = torch.Generator().manual_seed(seed + number)
        while time.monotonic() < until:
            queries = torch.randn(3, 8, generator=generator)
            first = history.newest()
            try:
                found = history.bank.topk(queries, K)
            except Exception as error:
                note(f"ESCAPED: {type(error).__name__} in a search")
                continue
            states = history.since(first)
            if states is None:
                note("not judged")
            else:
                right = any(_is_answer(found, queries, state) for state in states)
                note("answers" if right else "WRONG")

    workers = [threading.Thread(target=write if i < 2 else read, args=(i,)) for i in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    history.bank.check()
    searches = outcomes["answers"] + outcomes["WRONG"] + outcomes["not judged"]
    if history.bank.stats.queries != 3 * searches:
        outcomes["LOST: counts"] += 1
    return outcomes


def _is_answer(found: tuple[Tensor, Tensor], queries: Tensor, state: PrototypeBank) -> bool:
    scores, indices = reference.topk(queries, state.vectors(), K, "dot")
    return torch.equal(found[0], scores) and torch.equal(found[1], indices)
