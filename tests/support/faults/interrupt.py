"""Interrupts at random instants: a bank is what it was, or what it was to become."""

import random
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from screens import CODED

from flashmatch import PrototypeBank

from .banks import CHANNELS, is_consistent


def run(count: int, seed: int, folder: Path) -> Counter[str]:
    """In the main thread of a process that has signals."""
    chosen, outcomes = random.Random(seed), Counter[str]()
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(30_000, CHANNELS, generator=generator)
    for _ in range(count):
        screen = chosen.choice((CODED, "float"))
        bank = PrototypeBank(rows[:20_000].clone(), metric="dot", screen=screen, progress=False)
        if chosen.random() < 0.5:
            bank.add(rows[20_000:20_100])
        name = chosen.choice(list(CHANGES))
        before = len(bank)
        change, after = CHANGES[name](bank, rows, folder)
        is_done = interrupted(change, chosen.uniform(0, 0.02))
        outcomes[_outcome(bank, before, after, is_done, folder)] += 1
    return outcomes


def _adding(bank: PrototypeBank, rows: torch.Tensor, _: Path) -> tuple[Callable[[], object], int]:
    return lambda: bank.add(rows[20_000:] * 2), len(bank) + 10_000


def _removing(bank: PrototypeBank, _: torch.Tensor, __: Path) -> tuple[Callable[[], object], int]:
    return lambda: bank.remove(range(0, 9000, 3)), len(bank) - 3000


def _emptying(bank: PrototypeBank, _: torch.Tensor, __: Path) -> tuple[Callable[[], object], int]:
    return lambda: bank.remove(range(15_000)), len(bank) - 15_000


def _saving(bank: PrototypeBank, _: torch.Tensor, folder: Path) -> tuple[Callable[[], object], int]:
    return lambda: bank.save(folder / "bank.safetensors"), len(bank)


CHANGES = {"add": _adding, "remove": _removing, "remove most": _emptying, "save": _saving}


def interrupted(call: Callable[[], object], after: float) -> bool:
    """Whether ``call`` came to its end before a KeyboardInterrupt."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, max(after, 1e-5))
        call()
        signal.setitimer(signal.ITIMER_REAL, 0)
        return True
    except KeyboardInterrupt:
        return False
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def _outcome(bank: PrototypeBank, before: int, after: int, is_done: bool, folder: Path) -> str:
    if len(bank) not in ((after,) if is_done else (before, after)):
        return "WRONG: half a change"
    if not is_consistent(bank):
        return "WRONG: rows and codes apart"
    bank.check()
    bank.add(torch.ones(5, CHANNELS))  # and it goes on
    bank.remove(int(bank.ids[0]))
    if not is_consistent(bank):
        return "WRONG: rows and codes apart, later"
    for path in folder.iterdir():
        if path.suffix == ".partial":
            return "LOST: a partial file is left"
        PrototypeBank.load(path, check=True)
    return "changed" if is_done else "interrupted"
