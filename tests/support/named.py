"""Banks whose ids are strings, beside a dictionary of names and vectors, which keeps its order."""

import numpy as np
import torch
from torch import Tensor

from flashmatch import topk
from flashmatch.kernels import PrototypeBank

CHANNELS = 6


def rows_of(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, CHANNELS, generator=torch.Generator().manual_seed(seed))


def names_of(count: int, prefix: str = "n") -> list[str]:
    return [f"{prefix}{i}" for i in range(count)]


def assert_same(bank: PrototypeBank, oracle: dict[str, Tensor]) -> None:
    """The bank holds just these vectors under these names, in this order."""
    assert bank.ids.dtype == object
    assert bank.ids.tolist() == list(oracle)
    assert all(type(name) is str for name in bank.ids)
    queries = rows_of(5, seed=98)
    rows = torch.stack([*oracle.values()]) if oracle else torch.empty(0, CHANNELS)
    for k in sorted({0, min(1, len(rows)), len(rows) // 3, len(rows)}):
        scores, indices = topk(queries, rows, k, metric=bank.metric)
        found = bank.search(queries, k)
        assert torch.equal(found.scores, scores)
        assert found.ids.shape == (5, k)
        assert found.ids.tolist() == [[list(oracle)[i] for i in row] for row in indices.tolist()]
        matches = bank.topk(queries, k)
        assert all(map(torch.equal, matches, (scores, indices)))
        assert np.array_equal(bank.ids[matches.indices], found.ids)


def shown(bank: PrototypeBank) -> tuple[list, ...]:
    scores, ids = bank.search(rows_of(4, 9), min(5, len(bank)))
    return bank.ids.tolist(), scores.tolist(), ids.tolist(), bank.vectors().tolist()
