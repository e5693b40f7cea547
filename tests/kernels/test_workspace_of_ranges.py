"""What a search within a threshold holds: the workspace, and a few times what it returns."""

from functools import partial

import pytest
import torch
from allocations import peak_bytes
from problems import METRICS, vectors

from flashmatch import PrototypeBank, count_within, kernels, within

MIB = 2**20
SHAPES = [(1, 100_000, 16), (1000, 3000, 32), (200, 4000, 600), (100, 300, 6000)]


@pytest.mark.parametrize("kind", ["gaussian", "identical"])
@pytest.mark.parametrize(("queries", "rows", "channels"), SHAPES)
def test_within_the_workspace(
    queries: int, rows: int, channels: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "WORKSPACE_BYTES", 16 * MIB)
    generator = torch.Generator().manual_seed(0)
    q, p = (vectors(kind, n, channels, generator).float() for n in (queries, rows))
    bank = PrototypeBank(p, metric="dot")
    for threshold in (2.0 * channels**0.5, -1e30):  # 2 in 100, and all
        about = q, p, threshold
        for sort in (False, True):
            by_hand = partial(within, *about, metric="dot", sort=sort)
            most = 16 * MIB + 6 * sum(part.nbytes for part in by_hand())
            assert peak_bytes(by_hand) <= most
            assert peak_bytes(partial(bank.within, q, threshold, sort=sort)) <= most
        limited = partial(within, *about, metric="dot", limit=5)
        assert peak_bytes(limited) <= 20 * MIB + 6 * sum(part.nbytes for part in limited())
        assert peak_bytes(partial(count_within, *about, metric="dot")) <= 16 * MIB


@pytest.mark.parametrize("metric", METRICS)
def test_a_bank_against_itself(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "WORKSPACE_BYTES", 16 * MIB)
    rows = vectors("gaussian", 5000, 64, torch.Generator().manual_seed(0)).float()
    bank = PrototypeBank(rows, metric=metric)
    threshold = float(bank.neighbors(20).scores[:, -1].median())
    for once in (True, False):
        pairs = partial(bank.pairs, threshold, once=once)
        assert peak_bytes(pairs) <= 20 * MIB + 6 * sum(part.nbytes for part in pairs())
