"""The search as torch operators: CPU, CUDA, fake and autograd for each; transforms.py adds vmap.

``flashmatch::topk`` searches; ``flashmatch::topk_backward`` carries gradients of the scores to the
selected pairs. Both are opaque to torch.compile, which sees their shapes only. An operator takes
tensors and numbers, so here alone a ``Request`` is taken apart, and a bank is a number.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .. import dispatch
from ..contract.matches import no_matches
from ..contract.request import Request
from ..storage.prepared import Prepared, prepared_of
from . import gradient


def observable_topk(
    queries: Tensor, prototypes: list[Tensor], request: Request, bank: Prepared | None = None
) -> tuple[Tensor, Tensor]:
    """Scores (Q, k) fp32 and indices (Q, k) int64, by an operator where something has to see one.

    The operator costs 34 microseconds a call (Xeon with VNNI), and its first call imports torch's
    compiler, which takes seconds. With a ``bank``, ``prototypes`` are its chunks, and indices its
    rows.
    """
    refuse_tangents([queries, *prototypes])
    if _is_observed([queries, *prototypes]):
        r = request
        options = r.k, r.metric, r.mask, r.chunk_rows, r.exclude, bank and bank.handle
        return topk_operator(queries, prototypes, *options)
    return _search(queries, prototypes, request, bank)


def _search(
    queries: Tensor, prototypes: list[Tensor], request: Request, bank: Prepared | None
) -> tuple[Tensor, Tensor]:
    if bank is not None:
        return dispatch.search_bank(bank, queries, request)
    return dispatch.search_vectors(queries, prototypes, request)


def refuse_tangents(tensors: Sequence[Tensor]) -> None:
    """They would be lost without a word."""
    if forward_ad._current_level < 0:
        return
    if any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors):
        raise NotImplementedError("flashmatch has no forward AD (jvp): use backward AD")


def _is_observed(tensors: list[Tensor]) -> bool:
    """Whether autograd, a compiler, a mode or a subclass looks on, or there are no numbers."""
    return (
        torch.compiler.is_compiling()
        or tensors[0].is_meta
        or torch._C._len_torch_dispatch_stack() > 0
        or (torch.is_grad_enabled() and any(t.requires_grad for t in tensors))
        or any(type(t) not in (Tensor, torch.nn.Parameter) for t in tensors)
    )


@torch.library.custom_op("flashmatch::topk", mutates_args=())
def topk_operator(
    queries: Tensor,
    prototypes: list[Tensor],
    k: int,
    metric: str,
    mask: Tensor | None,
    chunk_rows: int | None,
    exclude: bool,
    bank: int | None = None,
) -> tuple[Tensor, Tensor]:
    """``observable_topk`` of the bank that has this handle, or of the prototypes."""
    request = Request(k, metric, mask, chunk_rows, exclude)
    return _search(queries, prototypes, request, None if bank is None else prepared_of(bank))


@topk_operator.register_fake
def _fake_topk(queries, prototypes, k, *options):
    scores, indices = no_matches(queries, k)
    return scores, indices


@torch.library.custom_op("flashmatch::topk_backward", mutates_args=())
def gradient_operator(
    grad: Tensor,
    queries: Tensor,
    prototypes: list[Tensor],
    indices: Tensor,
    metric: str,
    of_prototypes: bool,
) -> list[Tensor]:
    """[grad of queries, *grads of prototypes if wanted] from the gradient (Q, k) of the scores."""
    return gradient.of_selected(grad, queries, prototypes, indices, metric, of_prototypes)


@gradient_operator.register_fake
def _fake_gradient(grad, queries, prototypes, indices, metric, of_prototypes):
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
    grads = gradient_operator(
        grad_scores, queries, prototypes, indices, ctx.metric, ctx.of_prototypes
    )
    of_prototypes = grads[1:] if ctx.of_prototypes else [None] * len(prototypes)
    return grads[0], of_prototypes, *[None] * 6


topk_operator.register_autograd(_backward, setup_context=_setup_context)
