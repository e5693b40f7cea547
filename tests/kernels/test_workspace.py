"""What a search holds beyond inputs and outputs stays within WORKSPACE_BYTES."""

import pytest
import torch
from allocations import peak_bytes
from problems import vectors

from flashmatch import kernels, topk

MIB = 2**20


def test_peak_bytes_sees_a_temporary() -> None:
    assert peak_bytes(lambda: (torch.zeros(MIB) + 1).sum()) == pytest.approx(8 * MIB, rel=0.01)


@pytest.mark.parametrize("kind", ["gaussian", "identical", "sorted"])
@pytest.mark.parametrize(
    ("queries", "rows", "channels", "k"),
    [
        (1, 100_000, 16, 10),
        (3000, 3000, 32, 10),
        (200, 4000, 32, 4000),  # everything, sorted
        (50, 10_000, 16, 1500),
        (300, 300, 6000, 5),  # wide vectors
    ],
)
def test_within_the_workspace(
    queries: int, rows: int, channels: int, k: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = 16 * MIB
    monkeypatch.setattr(kernels, "WORKSPACE_BYTES", workspace)
    generator = torch.Generator().manual_seed(1)
    q, p = (vectors(kind, n, channels, generator).float() for n in (queries, rows))
    outputs = queries * k * 12
    assert peak_bytes(lambda: topk(q, p, k)) - outputs <= workspace
