"""Providers find what the oracle finds; limits multiply everything and win nothing."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from screens import needs_int8

from flashmatch.kernels.contract import reference
from measuring import shapes
from measuring.ledger import LIMIT
from measuring.shapes import Shape
from measuring.table import summary
from providers import gpu_peers, limits
from providers.limits import CPU_LIMITS
from providers.provider import Provider, Unsupported
from providers.registry import PROVIDERS, select
from studies.run import Bench, run

CPU = torch.device("cpu")
TINY = Shape(5, 211, 17, 7)
SEARCHES = [provider for provider in select(CPU) if provider.answers]


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
@pytest.mark.parametrize("provider", SEARCHES, ids=lambda p: p.name)
def test_providers_find_the_oracles_neighbours(provider: Provider, metric: str) -> None:
    shape = shapes.Shape(5, 211, 17, 7, metric)
    queries, prototypes = shapes.make(shape, CPU)
    try:
        scores, indices = provider.prepare(prototypes, shape)(queries)
    except Unsupported as reason:
        pytest.skip(str(reason))
    expected = reference.topk(queries, prototypes, shape.k, metric)
    assert torch.equal(indices, expected[1])
    torch.testing.assert_close(scores.float(), expected[0], atol=1e-5, rtol=1e-4)


def test_provider_names_are_unique() -> None:
    assert len({provider.name for provider in PROVIDERS}) == len(PROVIDERS)


@needs_int8
def test_cpu_limits_multiply_the_whole_shape(monkeypatch) -> None:
    monkeypatch.setattr(limits, "CHUNK", 100)
    shape = shapes.Shape(5, 211, 17)
    queries, prototypes = shapes.make(shape, CPU)
    one_call, chunks = (limit.prepare(prototypes, shape)(queries) for limit in CPU_LIMITS)
    q, p = limits._codes(shape.Q, shape.M, shape.C, CPU)
    assert torch.equal(one_call, (q.long() @ p.long().T).int())
    assert torch.equal(chunks, one_call[:, 200:])  # the last chunk, the shorter one


def test_limits_are_timed_beside_the_searches_and_win_nothing() -> None:
    def slow(queries):
        found = torch.topk(queries @ prototypes.T, 7)
        return found.values, found.indices

    shape = shapes.Shape(5, 211, 17, 7)
    _, prototypes = shapes.make(shape, CPU)
    providers = [Provider("flashmatch.fake", lambda *_: slow), *CPU_LIMITS]
    [(_, rows)] = run(Bench(CPU, providers, budget=0), [shape], minutes=1)
    for measured in rows[1:]:
        assert (measured.status, measured.agreement) == (LIMIT, None)
        assert measured.median_ms is not None
    assert "_int_mm" not in summary(rows)


def test_tf32_is_set_for_the_search_and_restored(monkeypatch) -> None:
    seen = []

    def product(prototypes, shape):
        def search(queries):
            seen.append(torch.get_float32_matmul_precision())
            return torch.topk(queries @ prototypes.T, shape.k)

        return search

    monkeypatch.setattr(gpu_peers, "_best_of_torch", product)
    queries, prototypes = shapes.make(TINY, CPU)
    before = torch.get_float32_matmul_precision()
    gpu_peers._tf32(prototypes, TINY)(queries)
    assert seen == ["high"]
    assert torch.get_float32_matmul_precision() == before
    with pytest.raises(Unsupported):
        gpu_peers._tf32(prototypes.half(), replace(TINY, dtype="float16"))


def test_bf16_searches_in_bf16() -> None:
    queries, prototypes = shapes.make(TINY, CPU)
    scores, indices = gpu_peers._bf16(prototypes, TINY)(queries)
    assert scores.dtype == torch.bfloat16
    exact = torch.cosine_similarity(queries[:, None], prototypes[None], dim=-1)
    assert torch.allclose(scores.float(), exact.gather(1, indices), atol=0.02)
    with pytest.raises(Unsupported):
        gpu_peers._bf16(prototypes.bfloat16(), replace(TINY, dtype="bfloat16"))


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_flashlib_by_its_signature(monkeypatch, metric: str) -> None:
    """x, c, k to squared distances and int32 indices, nearest first."""

    def flash_knn(x, c, k):
        found = torch.cdist(x, c).square().topk(k, largest=False)
        return found.values, found.indices.int()

    monkeypatch.setitem(sys.modules, "flashlib", SimpleNamespace(flash_knn=flash_knn))
    _finds_the_right(gpu_peers._flashlib, replace(TINY, metric=metric))


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_cuvs_by_its_signature(monkeypatch, metric: str) -> None:
    def search(index, queries, k, resources):
        prototypes, metric = index
        if metric == "sqeuclidean":
            return torch.cdist(queries, prototypes).square().topk(k, largest=False)
        if metric == "cosine":
            scores = torch.cosine_similarity(queries[:, None], prototypes[None], dim=-1)
            return (1 - scores).topk(k, largest=False)
        return (queries @ prototypes.T).topk(k)

    brute_force = SimpleNamespace(
        build=lambda dataset, metric, resources: (dataset, metric), search=search
    )
    resources = lambda stream: SimpleNamespace(sync=lambda: None)  # noqa: E731
    monkeypatch.setitem(sys.modules, "cuvs", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "cuvs.common", SimpleNamespace(Resources=resources))
    monkeypatch.setitem(sys.modules, "cuvs.neighbors", SimpleNamespace(brute_force=brute_force))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(cuda_stream=0))
    _finds_the_right(gpu_peers._cuvs, replace(TINY, metric=metric))


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_certex_by_its_signature(monkeypatch, metric: str) -> None:
    class Index:
        def __init__(self, dim, metric="l2"):
            assert (dim, metric) == (TINY.C, {"dot": "ip"}.get(wanted, wanted))
            self.metric = metric

        def add(self, x):
            self.x = x

        def search(self, q, k=10):
            if self.metric == "l2":
                return torch.cdist(q, self.x).square().topk(k, largest=False)
            if self.metric == "cosine":
                return torch.cosine_similarity(q[:, None], self.x[None], dim=-1).topk(k)
            return (q @ self.x.T).topk(k)

    wanted = metric
    monkeypatch.setitem(sys.modules, "certex", SimpleNamespace(Index=Index))
    _finds_the_right(gpu_peers._certex, replace(TINY, metric=metric))


def _finds_the_right(prepare, shape: Shape) -> None:
    queries, prototypes = shapes.make(shape, CPU)
    scores, indices = prepare(prototypes, shape)(queries)
    expected = reference.topk(queries, prototypes, shape.k, shape.metric)
    assert indices.dtype == torch.int64
    assert torch.equal(indices, expected[1])
    torch.testing.assert_close(scores, expected[0], atol=1e-5, rtol=1e-5)


@needs_int8
def test_gpu_limits_multiply_the_whole_shape(monkeypatch) -> None:
    monkeypatch.setattr(limits, "BUFFER_BYTES", 4 * 32 * 100)
    shape = Shape(5, 1001, 17)
    q, p = limits._codes(*limits._padded_sizes(shape), CPU)
    assert (q.shape, p.shape) == ((32, 32), (1008, 32))  # what cuBLASLt takes
    products = (q.long() @ p.long().T).int()
    assert torch.equal(limits.int8_product(shape, CPU)(), products)
    assert torch.equal(limits.int8_product_chunked(shape, CPU)(), products[:, 768:])
    queries, prototypes = shapes.make(shape, CPU)
    for limit in limits.GPU_LIMITS:
        assert not limit.answers
        assert limit.prepare(prototypes, shape)(queries).shape[1] >= 200
