"""Processes killed while they save: the file is the old one or the new one, whole."""

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import torch

from flashmatch import PrototypeBank


def run(count: int, seed: int, folder: Path) -> Counter[str]:
    """Forks: whoever calls this has run nothing in parallel that a child would wait for."""
    chosen, outcomes, path = random.Random(seed), Counter[str](), folder / "bank.safetensors"
    banks = [
        PrototypeBank(torch.full((60_000, 32), value), screen="float", ids=range(ids, ids + 60_000))
        for value, ids in ((1.0, 0), (2.0, 10**6))
    ]
    banks[0].save(path)
    for _ in range(count):
        child = os.fork()
        if child == 0:
            _save_until_killed(banks, path)
        time.sleep(chosen.uniform(0, 0.06))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        outcomes[_outcome(path)] += 1
        for left in folder.glob(".*.partial"):  # nobody is there to remove it
            left.unlink()
    return outcomes


def _save_until_killed(banks: list[PrototypeBank], path: Path) -> None:
    try:
        torch.set_num_threads(1)
        while True:
            for bank in banks:
                bank.save(path)
    finally:
        os._exit(1)


def _outcome(path: Path) -> str:
    try:
        bank = PrototypeBank.load(path, check=True)
    except FileNotFoundError:
        return "LOST: no file"
    except ValueError as error:
        return f"LOST: {error}"
    value, first = float(bank.vectors(torch.tensor([0]))[0, 0]), int(bank.ids[0])
    return "whole" if (value, first) in ((1.0, 0), (2.0, 10**6)) else "WRONG: a mixture"
