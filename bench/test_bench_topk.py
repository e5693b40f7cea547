"""pytest-benchmark suites over small shapes: ``pytest bench --benchmark-only``.

For watching one provider change from commit to commit (``--benchmark-compare``). Numbers that are
published come from ``python bench run``, which times the providers in turns.
"""

import pytest
import torch

from measuring.gate import agreement, truth
from measuring.shapes import SMALL, Shape, make
from providers.ours import OURS
from providers.provider import Provider, Unsupported
from providers.registry import select

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SEARCHES = [provider for provider in select(DEVICE) if provider.answers]
METRICS = [Shape(s.Q, s.M, s.C, s.k, metric) for s in SMALL[:3] for metric in ("dot", "l2")]


@pytest.mark.parametrize("shape", [*SMALL, *METRICS], ids=str)
@pytest.mark.parametrize("provider", SEARCHES, ids=lambda p: p.name)
def test_topk(benchmark, provider: Provider, shape: Shape) -> None:
    queries, prototypes = make(shape, DEVICE)
    right = truth(queries, prototypes, shape.k, shape.metric)
    try:
        search = provider.prepare(prototypes, shape)
    except Unsupported as reason:
        pytest.skip(str(reason))

    def call():
        found = search(queries)
        if DEVICE.type == "cuda":
            torch.cuda.synchronize(DEVICE)
        return found

    benchmark.group = str(shape)
    _, indices = benchmark(call)
    share = agreement(right, indices)
    benchmark.extra_info["agreement"] = share
    if provider in OURS:
        assert share == 1
