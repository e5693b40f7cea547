"""How many operations of torch a small search takes: each costs more than its arithmetic."""

import pytest
import torch
from problems import METRICS
from torch.utils._python_dispatch import TorchDispatchMode

from flashmatch import PrototypeBank
from flashmatch.kernels import dispatch
from flashmatch.kernels.contract.request import Request


class Operations(TorchDispatchMode):
    """Names of all that torch dispatches, views included."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("queries", "channels", "of_bank", "of_raw"),
    [(1, 128, 25, 45), (16, 128, 25, 45), (64, 512, 32, 45)],
)
def test_a_small_search_takes_few_operations(
    queries: int,
    channels: int,
    of_bank: int,
    of_raw: int,
    metric: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of what is behind the operator, which hides them; of the second search, as a loop's are."""
    monkeypatch.setattr(dispatch, "workers_for", lambda most: 1)
    generator = torch.Generator().manual_seed(0)
    q, p = (torch.randn(n, channels, generator=generator) for n in (queries, 1000))
    bank, request = PrototypeBank(p, metric=metric), Request(10, metric)
    for search, most in (
        (lambda: dispatch.search_bank(bank._state, q, request), of_bank),
        (lambda: dispatch.search_vectors(q, [p], request), of_raw),
    ):
        search()
        with Operations() as operations:
            search()
        assert 5 < len(operations.names) <= most, operations.names
