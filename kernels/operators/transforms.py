"""The search under torch.func: vmap, grad, vjp, jacrev, nested as one likes.

torch.func knows nothing of the autograd formula of an operator, and some of it would return zeros
without a word: here it sees an autograd.Function with a rule for vmap.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..contract.request import Request
from ..storage.prepared import Prepared, prepared_of
from .topk_operator import gradient_operator, observable_topk, topk_operator


def transformable_topk(
    queries: Tensor, prototypes: list[Tensor], request: Request, bank: Prepared | None = None
) -> tuple[Tensor, Tensor]:
    """``observable_topk``, also under torch.func."""
    if _is_transformed():
        return _Search.apply(request.masked(None), bank, queries, request.mask, *prototypes)
    return observable_topk(queries, prototypes, request, bank)


def transformable_gradient(grad, queries, prototypes, indices, metric, of_prototypes):
    """``gradient_operator``, also under torch.func."""
    if _is_transformed():
        return _Gradient.apply(metric, of_prototypes, grad, queries, indices, *prototypes)
    return gradient_operator(grad, queries, prototypes, indices, metric, of_prototypes)


def _is_transformed() -> bool:
    """Compiled, a transform sees the operators."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


class _Search(torch.autograd.Function):
    """``topk_operator``. What a transform may batch is an argument, the mask with it."""

    @staticmethod
    def forward(request, bank, queries, mask, *prototypes):
        return transformable_topk(queries, list(prototypes), request.masked(mask), bank)

    @staticmethod
    def setup_context(ctx, inputs, output):
        request, _, queries, _, *prototypes = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(queries, output[1], *prototypes)
        ctx.metric = request.metric

    @staticmethod
    def backward(ctx, *grads):
        queries, indices, *prototypes = ctx.saved_tensors
        wanted = ctx.needs_input_grad[4:]
        found = transformable_gradient(
            grads[0], queries, prototypes, indices, ctx.metric, any(wanted)
        )
        return None, None, found[0], None, *(found[1:] or [None] * len(wanted))

    @staticmethod
    def vmap(info, in_dims, *args):
        request, bank, queries, mask, *prototypes = args
        _, _, *dims = in_dims
        return _batched(info.batch_size, dims, queries, mask, prototypes, request, bank)


class _Gradient(torch.autograd.Function):
    """``gradient_operator``."""

    @staticmethod
    def forward(metric, of_prototypes, grad, queries, indices, *prototypes):
        operands = grad, queries, list(prototypes), indices
        return tuple(transformable_gradient(*operands, metric, of_prototypes))

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, *grads):
        raise NotImplementedError("the scores of flashmatch.topk can be differentiated once only")

    @staticmethod
    def vmap(info, in_dims, *args):
        metric, of_prototypes, grad, queries, indices, *prototypes = args
        _, _, grad_dim, query_dim, index_dim, *prototype_dims = in_dims
        grads, dims = _batched_backward(
            info, (grad_dim, query_dim, prototype_dims, index_dim),
            grad, queries, prototypes, indices, metric, of_prototypes,
        )  # fmt: skip
        return tuple(grads), tuple(dims)


def _batched(batch, in_dims, queries, mask, prototypes, request, bank):
    """Batched queries and masks become one search; batched prototypes one search each.

    ``in_dims``: of queries, mask and prototypes.
    """
    query_dim, mask_dim, *prototype_dims = in_dims
    if mask_dim is None and all(dim is None for dim in prototype_dims):
        queries = queries.movedim(query_dim, 0)
        if mask is not None and mask.ndim == 2:
            mask = mask.expand(batch, *mask.shape).flatten(0, 1)
        found = transformable_topk(
            queries.flatten(0, 1), list(prototypes), request.masked(mask), bank
        )
        scores, indices = (x.view(batch, queries.shape[1], request.k) for x in found)
        return (scores, indices), (0, 0)
    results = [
        transformable_topk(
            _item(queries, query_dim, b),
            _items(prototypes, prototype_dims, b),
            request.masked(None if mask is None else _item(mask, mask_dim, b)),
            bank,
        )
        for b in range(batch)
    ]
    scores, indices = zip(*results, strict=True)
    return (torch.stack(scores), torch.stack(indices)), (0, 0)


@topk_operator.register_vmap
def _batched_operator(
    info, in_dims, queries, prototypes, k, metric, mask, chunk_rows, exclude, bank=None
):
    query_dim, prototype_dims, _, _, mask_dim, *_ = in_dims
    dims = query_dim, mask_dim, *prototype_dims
    request = Request(k, metric, None, chunk_rows, exclude)
    state = None if bank is None else prepared_of(bank)
    return _batched(info.batch_size, dims, queries, mask, prototypes, request, state)


def _item(tensor: Tensor, dim: int | None, b: int) -> Tensor:
    return tensor if dim is None else tensor.select(dim, b)


def _items(tensors: Sequence[Tensor], dims: Sequence[int | None], b: int) -> list[Tensor]:
    return [_item(tensor, dim, b) for tensor, dim in zip(tensors, dims, strict=True)]


def _batched_backward(info, in_dims, grad, queries, prototypes, indices, metric, of_prototypes):
    """Batched queries become one gradient; batched prototypes, or gradients of any, one each."""
    grad_dim, query_dim, prototype_dims, index_dim = in_dims[:4]
    of_queries = (grad, queries, indices), (grad_dim, query_dim, index_dim)
    if of_prototypes or any(dim is not None for dim in prototype_dims):
        grads = []
        for b in range(info.batch_size):
            g, q, i = _items(*of_queries, b)
            chunks = _items(prototypes, prototype_dims, b)
            grads.append(transformable_gradient(g, q, chunks, i, metric, of_prototypes))
        stacked = [torch.stack(same) for same in zip(*grads, strict=True)]
        return stacked, [0] * len(stacked)
    g, q, i = (
        t.expand(info.batch_size, *t.shape) if dim is None else t.movedim(dim, 0)
        for t, dim in zip(*of_queries, strict=True)
    )
    (flat,) = transformable_gradient(
        g.flatten(0, 1), q.flatten(0, 1), prototypes, i.flatten(0, 1), metric, of_prototypes
    )
    return [flat.view(q.shape)], [0]


gradient_operator.register_vmap(_batched_backward)
