"""topk as a torch operator: its registration, gradients, torch.compile, vmap."""

import pytest
import torch
from problems import METRICS
from screens import needs_inductor
from torch import Tensor

from flashmatch import topk
from flashmatch.kernels.contract.metrics import COSINE_EPS
from flashmatch.kernels.operators import topk_operator as operators


def tensors(*sizes: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(sum(sizes))
    return [torch.randn(n, 6, generator=generator).to(dtype).requires_grad_() for n in sizes]


def formula(queries: Tensor, prototypes: Tensor, metric: str) -> Tensor:
    """All scores, by torch operations that autograd knows."""
    if metric == "cosine":  # torch.cosine_similarity's own gradient ignores that it clamps
        q, p = (
            v / v.norm(dim=1, keepdim=True).clamp(min=COSINE_EPS) for v in (queries, prototypes)
        )
        return q @ p.T
    if metric == "dot":
        return queries @ prototypes.T
    return -((queries[:, None] - prototypes[None]) ** 2).sum(-1)


@pytest.mark.parametrize("metric", METRICS)
def test_opcheck(metric: str) -> None:
    queries, first, second = tensors(5, 30, 12)
    mask = torch.rand(5, 42) > 0.5
    torch.library.opcheck(
        operators.topk_operator, (queries, [first, second], 3, metric, mask, 7, False)
    )
    grad, indices = torch.randn(5, 3), torch.randint(42, (5, 3))
    arguments = (queries.detach(), [first.detach(), second.detach()], indices, metric)
    for of_prototypes in (True, False):
        torch.library.opcheck(operators.gradient_operator, (grad, *arguments, of_prototypes))


@pytest.mark.parametrize("metric", METRICS)
def test_gradients_pass_through_the_selected_pairs(metric: str) -> None:
    inputs = tensors(5, 30, 12, dtype=torch.float64)
    queries, *chunks = inputs
    scores, indices = topk(queries, chunks, 4, metric=metric)
    assert not indices.requires_grad
    weights = torch.randn(scores.shape)
    actual = torch.autograd.grad((scores * weights).sum(), inputs)
    selected = formula(queries, torch.cat(chunks), metric).gather(1, indices)
    expected = torch.autograd.grad((selected * weights).sum(), inputs)
    torch.testing.assert_close(actual, expected, rtol=1e-7, atol=1e-9)


def test_gradients_of_clamped_norms_and_of_missing_matches() -> None:
    queries, prototypes = tensors(3, 8, dtype=torch.float64)
    with torch.no_grad():
        prototypes[2] *= 1e-12
        queries[1] *= 1e-12
    mask = torch.arange(8) < 3
    scores, indices = topk(queries, prototypes, 4, mask=mask)
    assert indices[:, 3].tolist() == [-1] * 3
    actual = torch.autograd.grad(scores[:, :3].sum(), (queries, prototypes))
    expected = torch.autograd.grad(
        formula(queries, prototypes, "cosine")[:, :3].sum(), (queries, prototypes)
    )
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-9)


def test_only_queries_may_want_gradients() -> None:
    queries, prototypes = tensors(3, 8, dtype=torch.float16)
    scores, _ = topk(queries, prototypes.detach(), 2)
    (grad,) = torch.autograd.grad(scores.sum(), queries)
    assert grad.dtype == torch.float16
    assert grad.isfinite().all()


@needs_inductor
def test_compiles_as_one_graph() -> None:
    queries, prototypes = tensors(5, 40)

    def loss(queries: Tensor, prototypes: Tensor) -> Tensor:
        return topk(queries * 2, prototypes, 3).scores.sum()

    compiled = torch.compile(loss, fullgraph=True)
    torch.testing.assert_close(compiled(queries, prototypes), loss(queries, prototypes))
    actual = torch.autograd.grad(compiled(queries, prototypes), queries)
    torch.testing.assert_close(actual, torch.autograd.grad(loss(queries, prototypes), queries))


@pytest.mark.parametrize("in_dims", [(0, None), (1, None), (0, 0), (None, 1)])
def test_vmap(in_dims: tuple) -> None:
    shapes = ((5, 6), (40, 6))
    batched = [
        torch.randn(shape) if dim is None else torch.randn(*shape[:dim], 3, *shape[dim:])
        for shape, dim in zip(shapes, in_dims, strict=True)
    ]
    actual = torch.vmap(lambda q, p: topk(q, p, 4), in_dims=in_dims)(*batched)
    for b in range(3):
        queries, prototypes = (
            t if dim is None else t.select(dim, b) for t, dim in zip(batched, in_dims, strict=True)
        )
        expected = topk(queries, prototypes, 4)
        assert torch.equal(actual.scores[b], expected.scores)
        assert torch.equal(actual.indices[b], expected.indices)
