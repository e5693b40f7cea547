"""Gradients of the scores with respect to the vectors of the selected pairs.

With score s and its gradient g, per pair:

    dot     dq = g p                                     dp likewise with q and p exchanged
    l2      dq = -2 g (q - p)
    cosine  dq = g (p / b - s q / a [|q| > eps]) / a      a = max(|q|, eps), b = max(|p|, eps)
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..contract.metrics import COSINE_EPS

_BLOCK_ELEMENTS = 1 << 20
"""Elements of the rows gathered at a time."""


def of_selected(
    grad: Tensor,
    queries: Tensor,
    prototypes: Sequence[Tensor],
    indices: Tensor,
    metric: str,
    of_prototypes: bool,
) -> list[Tensor]:
    """[(Q, C), *(M_i, C)] in the inputs' dtypes, from the gradient (Q, k) of the scores of
    ``indices`` (Q, k), -1 where none."""
    rows = torch.arange(len(indices), device=indices.device).repeat_interleave(indices.shape[1])
    pairs = grad.flatten(), rows, indices.flatten()
    return of_pairs(*pairs, queries, prototypes, metric, of_prototypes)


def of_pairs(
    grad: Tensor,
    rows: Tensor,
    indices: Tensor,
    queries: Tensor,
    prototypes: Sequence[Tensor],
    metric: str,
    of_prototypes: bool,
) -> list[Tensor]:
    """The same from the gradient (n,) of the scores of pairs (queries[rows[i]], indices[i]).

    Accumulated in fp32, or fp64 for fp64 inputs.
    """
    wide = torch.float64 if torch.float64 in {t.dtype for t in (queries, *prototypes)} else None
    dtype = wide or torch.float32
    grad_q = torch.zeros_like(queries, dtype=dtype, memory_format=torch.contiguous_format)
    grad_p = [
        torch.zeros_like(p, dtype=dtype, memory_format=torch.contiguous_format)
        for p in (prototypes if of_prototypes else ())
    ]
    first = 0
    block = max(1, _BLOCK_ELEMENTS // queries.shape[1])
    for c, chunk in enumerate(prototypes):
        local = indices - first
        here = ((local >= 0) & (local < len(chunk))).nonzero()[:, 0]
        first += len(chunk)
        for part in here.split(block):
            r, columns = rows[part], local[part].to(chunk.device)
            g = grad[part].to(dtype)[:, None]
            q, p = queries[r].to(dtype), chunk[columns]
            p = p.to(queries.device, dtype)
            dq, dp = _of_each(g, q, p, metric)
            grad_q.index_add_(0, r, dq)
            if of_prototypes:
                grad_p[c].index_add_(0, columns, dp.to(chunk.device))
    inputs = [queries, *prototypes] if of_prototypes else [queries]
    return [g.to(t.dtype) for g, t in zip([grad_q, *grad_p], inputs, strict=True)]


def _of_each(g: Tensor, q: Tensor, p: Tensor, metric: str) -> tuple[Tensor, Tensor]:
    if metric == "dot":
        return g * p, g * q
    if metric == "l2":
        pull = 2 * g * (p - q)
        return pull, -pull
    a, b = q.norm(dim=1, keepdim=True), p.norm(dim=1, keepdim=True)
    q_free, p_free = a > COSINE_EPS, b > COSINE_EPS  # the clamped norm is a constant
    q, p = q / a.clamp_(min=COSINE_EPS), p / b.clamp_(min=COSINE_EPS)
    s = (q * p).sum(1, keepdim=True)
    return g * (p - s * q * q_free) / a, g * (q - s * p * p_free) / b
