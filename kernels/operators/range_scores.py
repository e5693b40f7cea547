"""The scores of a search for all that reaches a score, as autograd sees them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..contract.matches import RangeMatches
from .gradient import of_pairs
from .topk_operator import refuse_tangents


def differentiable(
    found: RangeMatches,
    queries: Tensor,
    prototypes: list[Tensor],
    metric: str,
    rows_of: Callable[[Tensor], Tensor] = lambda indices: indices,
) -> RangeMatches:
    """The same, its scores with the gradients of their pairs where any are wanted.

    ``rows_of`` says which of the prototypes' rows the ``indices`` (n,) found are.
    """
    wanted = [queries, *prototypes]
    if not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in wanted)):
        return found
    pairs = found.queries, rows_of(found.indices)
    return found._replace(scores=_Scores.apply(found.scores, *pairs, metric, *wanted))


def refuse_transforms(tensors: list[Tensor]) -> None:
    """A result whose length depends on its values has no batch, and no tangents."""
    if torch._C._are_functorch_transforms_active():
        raise NotImplementedError(
            "searches within a threshold do not work under torch.func (vmap, grad): how much they "
            "find depends on the numbers"
        )
    refuse_tangents(tensors)


class _Scores(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, scores: Tensor, owners: Tensor, rows: Tensor, metric: str, *vectors: Tensor
    ) -> Tensor:
        ctx.save_for_backward(owners, rows, *vectors)
        ctx.metric = metric
        return scores.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        owners, rows, queries, *prototypes = ctx.saved_tensors
        wanted = ctx.needs_input_grad[5:]
        pairs = grads[0], owners, rows
        found = of_pairs(*pairs, queries, prototypes, ctx.metric, any(wanted))
        return None, None, None, None, found[0], *(found[1:] or [None] * len(wanted))
