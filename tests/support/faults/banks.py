"""Banks of every kind, and what a caller can see of one."""

from collections.abc import Callable

import torch
from features import features
from screens import CODED
from torch import Tensor

from flashmatch import PrototypeBank, topk

CHANNELS = 12


def _rows(count: int, kind: str = "gaussian", seed: int = 0) -> Tensor:
    return features(kind, count, CHANNELS, torch.Generator().manual_seed(seed)).float()


def _added_to() -> PrototypeBank:
    bank = PrototypeBank(_rows(2100), screen=CODED, metric="dot")
    for seed in (1, 2):
        bank.add(_rows(700, seed=seed), ids=range(10**6 * seed, 10**6 * seed + 700))
    return bank


def _removed_from() -> PrototypeBank:
    bank = PrototypeBank(_rows(1500), screen=CODED, ids=torch.randperm(1500) + 10)
    bank.remove([11, 12, 1000])
    return bank


def _with_nonfinite(screen: str) -> PrototypeBank:
    rows = _rows(1300)
    rows[[3, 1100]] = torch.nan
    return PrototypeBank(rows, screen=screen, nonfinite="exclude", metric="l2")


def _too_large() -> PrototypeBank:
    rows = _rows(200)
    rows[7] *= 1e25
    return PrototypeBank(rows, metric="dot")


KINDS: dict[str, Callable[[], PrototypeBank]] = {
    "float": lambda: PrototypeBank(_rows(400), screen="float"),
    "int8": lambda: PrototypeBank(_rows(1200), screen=CODED),
    "int8, l2": lambda: PrototypeBank(_rows(1100), screen=CODED, metric="l2"),
    "rotated": lambda: PrototypeBank(_rows(1100, "heavy"), screen=CODED, metric="dot"),
    "fp16": lambda: PrototypeBank(_rows(300).half(), screen=CODED),
    "bf16": lambda: PrototypeBank(_rows(300).bfloat16(), screen="float", metric="l2"),
    "fp64": lambda: PrototypeBank(_rows(300).double(), screen=CODED, metric="dot"),
    "added to": _added_to,
    "removed from": _removed_from,
    "not finite, int8": lambda: _with_nonfinite(CODED),
    "not finite, float": lambda: _with_nonfinite("float"),
    "too large": _too_large,
    "empty": lambda: PrototypeBank(torch.empty(0, CHANNELS)),
    "one row": lambda: PrototypeBank(_rows(1), ids=[2**62]),
}


def queries(count: int = 6) -> Tensor:
    return _rows(count, seed=99)


def seen(bank: PrototypeBank) -> list[list[int]]:
    """The ids of the matches, all scores to the bit, and the vectors to the bit."""
    k = min(5, len(bank))
    scores, indices = bank.topk(queries(), k)
    vectors = bank.vectors().double().view(torch.int64)
    found = torch.where(indices < 0, -1, bank.ids[indices.clamp(min=0)]) if k else indices
    facts = (found, scores.view(torch.int32), bank.ids, vectors)
    return [fact.flatten().tolist() for fact in facts]


def is_consistent(bank: PrototypeBank) -> bool:
    """Whether the bank finds what a search of its own vectors does."""
    k, vectors = min(5, len(bank)), bank.vectors()
    wanted = topk(queries(), vectors, k, metric=bank.metric, nonfinite="exclude")
    return all(map(torch.equal, bank.topk(queries(), k), wanted))


def change_and_answer(bank: PrototypeBank, path: str) -> None:
    """What another process does with a bank that it was handed."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        bank.add(_rows(10, seed=5))
        bank.remove(0)
        torch.save((*bank.topk(queries(), 5), bank.ids), path)
    finally:
        torch.set_num_threads(threads)
