"""The search as torch operators: CPU, CUDA, fake and autograd for each; transforms.py has vmap.

``flashmatch::topk`` searches; ``flashmatch::topk_backward`` carries gradients of the scores to the
selected pairs. Both are opaque to torch.compile, which sees their shapes only.
"""

import secrets
from typing import Protocol
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from . import gradient
from .concurrency.fit_thread import in_fit_thread
from .torch_backend import float_search, int8_products, int8_search
from .torch_backend.plan import plan


class Bank(Protocol):
    """A state of a bank, known to operators by a number."""

    def search(self, queries: Tensor, k: int, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Scores and rows (Q, k); ``mask`` by position."""
        ...


_banks: WeakValueDictionary[int, Bank] = WeakValueDictionary()


def enter(bank: Bank) -> int:
    """A number by which operators know it. Random: another process has no such bank."""
    handle = secrets.randbits(62)
    _banks[handle] = bank
    return handle


def _search_bank(
    handle: int, queries: Tensor, k: int, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    bank = _banks.get(handle)
    if bank is None:
        raise RuntimeError(
            "a graph that searches a PrototypeBank must run where that bank is, as it was when the "
            "graph was made; it is gone, or has changed"
        )
    return bank.search(queries, k, mask)


def _search(
    queries: Tensor,
    prototypes: list[Tensor],
    k: int,
    metric: str,
    mask: Tensor | None,
    chunk_rows: int | None,
    exclude: bool,
    bank: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Scores (Q, k) fp32 and indices (Q, k) int64 of checked arguments, by the body that fits.

    With a ``bank``, which says the rest, ``prototypes`` are its chunks and indices its rows.
    """
    if bank is not None:
        return _search_bank(bank, queries, k, mask)
    if queries.is_cuda:
        try:
            from .triton_backend import float_search
        except ImportError:  # no triton for this platform: the torch body runs on the device
            pass
        else:
            if float_search.supports(queries, prototypes, k, metric):
                return float_search.search(
                    queries, prototypes, k, metric, mask, chunk_rows, exclude
                )
    arguments = (queries, prototypes, k, metric, mask, chunk_rows, exclude)
    return in_fit_thread([queries, *prototypes], _search_by_torch, *arguments)


def _search_by_torch(
    queries: Tensor,
    prototypes: list[Tensor],
    k: int,
    metric: str,
    mask: Tensor | None,
    chunk_rows: int | None,
    exclude: bool,
) -> tuple[Tensor, Tensor]:
    from . import WORKSPACE_BYTES  # at call time: it can be set

    rows = sum(len(chunk) for chunk in prototypes)
    chosen = plan(len(queries), rows, queries.shape[1], k, WORKSPACE_BYTES, chunk_rows)
    is_coded = chosen.coded and int8_products.is_fast(queries.device.type)
    body = int8_search.search_raw if is_coded else float_search.search
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
    bank: int | None = None,
) -> tuple[Tensor, Tensor]:
    """``topk`` where something has to see an operator; the body itself otherwise.

    The operator costs 34 microseconds a call, and its first call imports torch's compiler, which
    takes seconds.
    """
    arguments = (queries, prototypes, k, metric, mask, chunk_rows, exclude, bank)
    return (topk if _is_observed([queries, *prototypes]) else _search)(*arguments)


def _is_observed(tensors: list[Tensor]) -> bool:
    """Whether autograd, a compiler, a mode or a subclass looks on, or there are no numbers."""
    return (
        torch.compiler.is_compiling()
        or tensors[0].is_meta
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
    bank: int | None = None,
) -> tuple[Tensor, Tensor]:
    shape = (queries.shape[0], k)
    return (
        queries.new_empty(shape, dtype=torch.float32),
        queries.new_empty(shape, dtype=torch.int64),
    )


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
    return gradient.of_selected(grad, queries, prototypes, indices, metric, of_prototypes)


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
    return grads[0], of_prototypes, *[None] * 6


topk.register_autograd(_backward, setup_context=_setup_context)
