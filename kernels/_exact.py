"""Scores as the contract defines them: fp64, one fixed order of summation, rounded once to fp32.

``_definition`` is that evaluation, slow. ``pairs`` (chosen pairs) and ``dense`` (all pairs of two
blocks) give the same bits faster: they evaluate in fp64 in whatever order is fast, and where that
evaluation's error cannot carry the score across an fp32 rounding boundary, its rounding is the
answer. The few pairs left undecided go through ``_definition``.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ._bounds import COSINE_EPS, fp64_slack

_BLOCK_ELEMENTS = 1 << 17
"""Elements of a block of gathered rows: 1 MiB in fp64, so that it stays in a core's cache."""


def norms(vectors: Tensor) -> Tensor:
    """Euclidean norms (n,) fp64. A vector counts as non-finite where this is inf or NaN."""
    return torch.linalg.vector_norm(vectors, dim=1, dtype=torch.float64)


def pairs(
    queries: Tensor, prototypes: Sequence[Tensor], rows: Tensor, indices: Tensor, metric: str
) -> Tensor:
    """Scores (n,) fp32 of the pairs (queries[rows[i]], prototypes[indices[i]]).

    ``prototypes`` are chunks numbered through; ``rows`` and ``indices`` are (n,) int64.
    """
    block = max(1, _BLOCK_ELEMENTS // queries.shape[1])
    scores = [queries.new_empty(0, dtype=torch.float32)]
    for r, i in zip(rows.split(block), indices.split(block), strict=True):
        q, p = queries[r].double(), _gather(prototypes, i, queries.device).double()
        score, error = _evaluate(q, p, metric)
        low, high = (score - error).float(), (score + error).float()
        undecided = (~(low == high)).nonzero()[:, 0]  # NaN, from overflow, is undecided too
        if len(undecided):
            low[undecided] = _definition(q[undecided], p[undecided], metric)
        scores.append(low + 0.0)  # -0 and 0 are one score
    return torch.cat(scores)


def _gather(prototypes: Sequence[Tensor], indices: Tensor, device: torch.device) -> Tensor:
    """Rows (n, C) of the chunks; only those rows move between devices."""
    if len(prototypes) == 1:
        chunk = prototypes[0]
        return chunk[indices.to(chunk.device)].to(device)
    ends = torch.tensor([len(chunk) for chunk in prototypes], device=device).cumsum(0)
    chunk_of = torch.bucketize(indices, ends, right=True)
    out = torch.empty(len(indices), prototypes[0].shape[1], dtype=torch.float64, device=device)
    for c in chunk_of.unique().tolist():
        chunk, mine = prototypes[c], chunk_of == c
        local = indices[mine] - (int(ends[c]) - len(chunk))
        out[mine] = chunk[local.to(chunk.device)].to(device).double()
    return out


def _evaluate(q: Tensor, p: Tensor, metric: str) -> tuple[Tensor, Tensor]:
    """fp64 scores (n,) of paired rows (n, C), and how far ``_definition`` may differ."""
    slack = fp64_slack(q.shape[1])
    if metric == "l2":
        score = -(q - p).square_().sum(-1)  # a sum of like signs: its error is relative to itself
        return score, slack * score.abs()
    score = (q * p).sum(-1)
    q_norms, p_norms = norms(q), norms(p)
    if metric == "dot":
        return score, slack * q_norms * p_norms
    q_clamped, p_clamped = q_norms.clamp(min=COSINE_EPS), p_norms.clamp(min=COSINE_EPS)
    return score / (q_clamped * p_clamped), slack * (q_norms / q_clamped) * (p_norms / p_clamped)


def _definition(q: Tensor, p: Tensor, metric: str) -> Tensor:
    """fp32 scores (n,) of paired fp64 rows (n, C), each sum in the fixed order of ``_sum``."""
    if metric == "l2":
        return -_sum((q - p).square_()).float()
    score = _sum(q * p)
    if metric == "cosine":
        q_norms, p_norms = _sum(q.square()).sqrt_(), _sum(p.square()).sqrt_()
        score = score / (q_norms.clamp_(min=COSINE_EPS) * p_norms.clamp_(min=COSINE_EPS))
    return score.float()


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
    q_norms, p_norms = norms(queries)[:, None], norms(prototypes)[None, :]
    score = queries.double() @ prototypes.double().T
    if metric == "cosine":
        q_clamped, p_clamped = q_norms.clamp(min=COSINE_EPS), p_norms.clamp(min=COSINE_EPS)
        score /= q_clamped * p_clamped
        error = (q_norms / q_clamped) * (p_norms / p_clamped)
    elif metric == "dot":
        error = q_norms * p_norms
    else:
        score = 2 * score - q_norms.square() - p_norms.square()
        error = (q_norms + p_norms).square_()
    error *= fp64_slack(queries.shape[1])
    low, high = (score - error).float(), (score + error).float()
    undecided = ~(low == high)
    if undecided.any():
        rows, columns = undecided.nonzero(as_tuple=True)
        low[rows, columns] = pairs(queries, [prototypes], rows, columns, metric)
    return low + 0.0
