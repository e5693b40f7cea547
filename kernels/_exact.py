"""Scores as the contract defines them: fp64, one fixed order of summation, rounded once to fp32.

``pairs`` evaluates the definition for chosen (query, prototype) pairs. ``dense`` gives the same
bits for all pairs of two blocks, at the speed of an fp64 matrix product: where the product's error
cannot move the score across an fp32 rounding boundary its rounding is the answer, and the few
pairs that it leaves undecided go through ``pairs``.
"""

import torch
from torch import Tensor

from ._bounds import COSINE_EPS, fp64_slack

_BLOCK_ELEMENTS = 1 << 17
"""Elements a block of pairs may gather: 1 MiB in fp64, so that it stays in a core's cache."""


def pairs(queries: Tensor, prototypes: Tensor, rows: Tensor, columns: Tensor, metric: str) -> Tensor:
    """Scores (n,) fp32 of pairs (queries[rows[i]], prototypes[columns[i]]); int64 indices (n,)."""
    block = max(1, _BLOCK_ELEMENTS // queries.shape[1])
    scores = [
        _pairs(queries[r].double(), prototypes[c].double(), metric)
        for r, c in zip(rows.split(block), columns.split(block), strict=True)
    ]
    return torch.cat(scores) if scores else queries.new_empty(0, dtype=torch.float32)


def _pairs(q: Tensor, p: Tensor, metric: str) -> Tensor:
    if metric == "l2":
        score = -_sum((q - p).square_())
    else:
        score = _sum(q * p)
        if metric == "cosine":
            score /= norms(q).clamp_(min=COSINE_EPS) * norms(p).clamp_(min=COSINE_EPS)
    return score.float() + 0.0  # -0 and 0 are one score


def norms(vectors: Tensor) -> Tensor:
    """Euclidean norms (n,) fp64, in the fixed order; inf or NaN marks a non-finite vector."""
    return _sum(vectors.double().square()).sqrt_()


def _sum(terms: Tensor) -> Tensor:
    """Sum over the last axis by halving: the same order for every batch. Overwrites its input."""
    width = terms.shape[-1]
    while width > 1:
        half = (width + 1) // 2
        terms[..., : width - half] += terms[..., half:width]
        width = half
    return terms[..., 0]


def dense(queries: Tensor, prototypes: Tensor, metric: str) -> Tensor:
    """All scores (Q, P) fp32 of finite blocks (Q, C) and (P, C). Holds 3 (Q, P) fp64 tensors."""
    q, p = queries.double(), prototypes.double()
    q_norms, p_norms = norms(queries)[:, None], norms(prototypes)[None, :]
    score = q @ p.T
    if metric == "cosine":
        q_clamped, p_clamped = q_norms.clamp(min=COSINE_EPS), p_norms.clamp(min=COSINE_EPS)
        score /= q_clamped * p_clamped
        error = (q_norms / q_clamped) * (p_norms / p_clamped)
    elif metric == "dot":
        error = q_norms * p_norms
    else:
        score = 2 * score - q_norms.square() - p_norms.square()
        error = (q_norms + p_norms).square_()
    error *= fp64_slack(q.shape[1])
    low, high = (score - error).float(), (score + error).float()
    undecided = ~(low == high)  # NaN, from overflow, is undecided too
    rows, columns = undecided.nonzero(as_tuple=True)
    low[rows, columns] = pairs(queries, prototypes, rows, columns, metric)
    return low + 0.0
