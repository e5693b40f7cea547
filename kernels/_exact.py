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

_BLOCK_ELEMENTS = 1 << 15
"""Elements of a block of gathered rows: 256 KiB in fp64, so that it stays in a core's cache."""


def norms(vectors: Tensor) -> Tensor:
    """Euclidean norms (n,) fp64. A vector counts as non-finite where this is inf or NaN."""
    return torch.linalg.vector_norm(vectors, dim=1, dtype=torch.float64)


def pairs(
    queries: Tensor, prototypes: Sequence[Tensor], rows: Tensor, indices: Tensor, metric: str
) -> Tensor:
    """Scores (n,) fp32 of the pairs (queries[rows[i]], prototypes[indices[i]]).

    ``prototypes`` are chunks numbered through; ``rows`` and ``indices`` are (n,) int64.
    """
    channels = queries.shape[1]
    block = max(1, min(_BLOCK_ELEMENTS // channels, len(rows)))
    wide, query_norms = queries.double(), norms(queries)
    q_buffer, p_buffer = wide.new_empty(block, channels), wide.new_empty(block, channels)
    gather = _Gather(prototypes, block, queries.device)
    scores = queries.new_empty(len(rows), dtype=torch.float32)
    for start in range(0, len(rows), block):
        r, i = rows[start : start + block], indices[start : start + block]
        q, p = q_buffer[: len(r)], p_buffer[: len(r)]
        torch.index_select(wide, 0, r, out=q)
        gather(i, out=p)
        score, error = _evaluate(q, p, query_norms[r], metric)  # overwrites q
        low, high = (score - error).float(), (score + error).float()
        undecided = (~(low == high)).nonzero()[:, 0]  # NaN, from overflow, is undecided too
        if len(undecided):
            low[undecided] = _definition(wide[r[undecided]], p[undecided], metric)
        torch.add(low, 0.0, out=scores[start : start + block])  # -0 and 0 are one score
    return scores


class _Gather:
    """Copies rows of numbered-through chunks; only those rows move between devices."""

    def __init__(self, prototypes: Sequence[Tensor], rows: int, device: torch.device) -> None:
        self.prototypes = prototypes
        counts = torch.tensor([len(chunk) for chunk in prototypes], device=device)
        self.ends = counts.cumsum(0)
        self.buffer: Tensor | None = None  # allocating one for each call costs more than the copy
        if len(prototypes) == 1 and prototypes[0].device == device:
            self.buffer = prototypes[0].new_empty(rows, prototypes[0].shape[1])

    def __call__(self, indices: Tensor, out: Tensor) -> None:
        """Rows ``indices`` (n,) into ``out`` (n, C) fp64."""
        if self.buffer is not None:
            part = self.buffer[: len(indices)]
            out.copy_(torch.index_select(self.prototypes[0], 0, indices, out=part))
            return
        chunk_of = torch.bucketize(indices, self.ends, right=True)
        for c in chunk_of.unique().tolist():
            chunk, mine = self.prototypes[c], chunk_of == c
            local = indices[mine] - (self.ends[c] - len(chunk))
            out[mine] = chunk.index_select(0, local.to(chunk.device)).to(out.device).double()


def _evaluate(q: Tensor, p: Tensor, q_norms: Tensor, metric: str) -> tuple[Tensor, Tensor]:
    """fp64 scores (n,) of paired rows (n, C), and how far ``_definition`` may differ."""
    slack = fp64_slack(q.shape[1])
    if metric == "l2":
        score = -q.sub_(p).square_().sum(-1)  # a sum of like signs: its error is relative to it
        return score, slack * score.abs()
    score = q.mul_(p).sum(-1)
    p_norms = norms(p)
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
