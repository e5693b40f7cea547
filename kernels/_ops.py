"""The search as torch operators: CPU, CUDA, fake, vmap and autograd for each.

``flashmatch::topk`` searches; ``flashmatch::topk_backward`` carries gradients of the scores to the
selected pairs. Both are opaque to torch.compile, which sees their shapes only.
"""

import torch
from torch import Tensor

from . import _gradient, _int8_search, _products, _torch
from ._plan import plan


def _search(
    queries: Tensor,
    prototypes: list[Tensor],
    k: int,
    metric: str,
    mask: Tensor | None,
    chunk_rows: int | None,
    exclude: bool,
) -> tuple[Tensor, Tensor]:
    """Scores (Q, k) fp32 and indices (Q, k) int64 of checked arguments, by the body that fits."""
    if queries.is_cuda:
        try:
            from . import _triton
        except ImportError:  # no triton for this platform: the torch body runs on the device
            pass
        else:
            if _triton.supports(queries, prototypes, k, metric):
                return _triton.search(queries, prototypes, k, metric, mask, chunk_rows, exclude)
    from . import WORKSPACE_BYTES  # at call time: it can be set

    rows = sum(len(chunk) for chunk in prototypes)
    chosen = plan(len(queries), rows, queries.shape[1], k, WORKSPACE_BYTES, chunk_rows)
    is_coded = chosen.coded and _products.is_fast(queries.device.type)
    body = _int8_search.search_raw if is_coded else _torch.search
    return body(queries, prototypes, k, metric, mask, exclude, chosen)


topk = torch.library.custom_op("flashmatch::topk", _search, mutates_args=())


def search(
    queries: Tensor,
    prototypes: list[Tensor],
    k: int,
    metric: str,
    mask: Tensor | None,
    chunk_rows: int | None,
    exclude: bool,
) -> tuple[Tensor, Tensor]:
    """``topk`` where something has to see an operator; the body itself otherwise.

    The operator costs 34 microseconds a call, and its first call imports torch's compiler, which
    takes seconds.
    """
    arguments = (queries, prototypes, k, metric, mask, chunk_rows, exclude)
    return (topk if _is_observed([queries, *prototypes]) else _search)(*arguments)


def _is_observed(tensors: list[Tensor]) -> bool:
    """Whether autograd, a compiler, a transform, a mode or a tensor subclass looks on."""
    return (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0
        or (torch.is_grad_enabled() and any(t.requires_grad for t in tensors))
        or any(type(t) not in (Tensor, torch.nn.Parameter) for t in tensors)
    )


@topk.register_fake
def _(
    queries: Tensor,
    prototypes: list[Tensor],
    k: int,
    metric: str,
    mask: Tensor | None,
    chunk_rows: int | None,
    exclude: bool,
) -> tuple[Tensor, Tensor]:
    shape = (queries.shape[0], k)
    return (
        queries.new_empty(shape, dtype=torch.float32),
        queries.new_empty(shape, dtype=torch.int64),
    )


@topk.register_vmap
def _(info, in_dims, queries, prototypes, k, metric, mask, chunk_rows, exclude):
    """Batched queries and masks become one search; batched prototypes one search each."""
    query_dim, prototype_dims, _, _, mask_dim, _, _ = in_dims
    batch = info.batch_size

    def item(tensor: Tensor, dim: int | None, b: int) -> Tensor:
        return tensor if dim is None else tensor.select(dim, b)

    rest = (chunk_rows, exclude)
    if all(dim is None for dim in prototype_dims) and mask_dim is None:
        queries = queries.movedim(query_dim, 0)
        if mask is not None and mask.ndim == 2:
            mask = mask.expand(batch, *mask.shape).flatten(0, 1)
        scores, indices = topk(queries.flatten(0, 1), prototypes, k, metric, mask, *rest)
        shape = (batch, queries.shape[1], k)
        return (scores.view(shape), indices.view(shape)), (0, 0)
    results = [
        topk(
            item(queries, query_dim, b),
            [item(p, dim, b) for p, dim in zip(prototypes, prototype_dims, strict=True)],
            k,
            metric,
            None if mask is None else item(mask, mask_dim, b),
            *rest,
        )
        for b in range(batch)
    ]
    scores, indices = zip(*results, strict=True)
    return (torch.stack(scores), torch.stack(indices)), (0, 0)


@torch.library.custom_op("flashmatch::topk_backward", mutates_args=())
def topk_backward(
    grad: Tensor,
    queries: Tensor,
    prototypes: list[Tensor],
    indices: Tensor,
    metric: str,
    of_prototypes: bool,
) -> list[Tensor]:
    """[grad of queries, *grads of prototypes if wanted] from the gradient (Q, k) of the scores."""
    return _gradient.of_selected(grad, queries, prototypes, indices, metric, of_prototypes)


@topk_backward.register_fake
def _(
    grad: Tensor,
    queries: Tensor,
    prototypes: list[Tensor],
    indices: Tensor,
    metric: str,
    of_prototypes: bool,
) -> list[Tensor]:
    wanted = [queries, *prototypes] if of_prototypes else [queries]
    return [torch.empty_like(t, memory_format=torch.contiguous_format) for t in wanted]


def _setup_context(ctx, inputs, output) -> None:
    queries, prototypes, _, metric, *_ = inputs
    indices = output[1]
    ctx.mark_non_differentiable(indices)
    ctx.save_for_backward(queries, indices, *prototypes)
    ctx.metric = metric
    ctx.of_prototypes = any(p.requires_grad for p in prototypes)


def _backward(ctx, grad_scores, _grad_indices):
    queries, indices, *prototypes = ctx.saved_tensors
    grads = topk_backward(grad_scores, queries, prototypes, indices, ctx.metric, ctx.of_prototypes)
    of_prototypes = grads[1:] if ctx.of_prototypes else [None] * len(prototypes)
    return grads[0], of_prototypes, None, None, None, None, None


topk.register_autograd(_backward, setup_context=_setup_context)
