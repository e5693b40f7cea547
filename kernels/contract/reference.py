"""The oracle: the contract, written as plainly as torch allows. Imported by tests and benchmarks.

score   the metric's definition, evaluated in fp64, rounded once to fp32
order   score descending, then index ascending
"""

import torch
from torch import Tensor

COSINE_EPS = 1e-8


def scores(queries: Tensor, prototypes: Tensor, metric: str) -> Tensor:
    """(Q, C), (M, C) -> (Q, M) float32. Holds a few (M, C) fp64 tensors at a time."""
    prototypes = prototypes.double()
    rows = [_row(query, prototypes, metric) for query in queries.double()]
    return torch.stack(rows) if rows else torch.empty(0, len(prototypes))


def _row(query: Tensor, prototypes: Tensor, metric: str) -> Tensor:
    if metric == "l2":
        score = -((query - prototypes) ** 2).sum(-1)
    else:
        score = (query * prototypes).sum(-1)
        if metric == "cosine":
            norms = (prototypes * prototypes).sum(-1).sqrt().clamp(min=COSINE_EPS)
            score = score / ((query * query).sum().sqrt().clamp(min=COSINE_EPS) * norms)
    return score.float() + 0.0  # -0 and 0 are one score


def topk(
    queries: Tensor,
    prototypes: Tensor,
    k: int,
    metric: str = "cosine",
    mask: Tensor | None = None,
    nonfinite: str = "raise",
) -> tuple[Tensor, Tensor]:
    """(Q, k) float32 scores and (Q, k) int64 indices; -inf and -1 where nothing may match."""
    allowed = torch.ones(len(queries), len(prototypes), dtype=torch.bool)
    if mask is not None:
        allowed &= mask
    if nonfinite == "exclude":
        allowed &= prototypes.isfinite().all(-1)
        allowed &= queries.isfinite().all(-1)[:, None]
    table = scores(queries.nan_to_num(0, 0, 0), prototypes.nan_to_num(0, 0, 0), metric)
    out_scores = torch.full((len(queries), k), -torch.inf)
    out_indices = torch.full((len(queries), k), -1)
    for q in range(len(queries)):
        candidates = allowed[q].nonzero()[:, 0]  # ascending, and the sort is stable
        best = table[q, candidates].sort(descending=True, stable=True)
        n = min(k, len(candidates))
        out_scores[q, :n] = best.values[:n]
        out_indices[q, :n] = candidates[best.indices[:n]]
    return out_scores, out_indices


def within(
    queries: Tensor,
    prototypes: Tensor,
    threshold: Tensor | float,
    metric: str = "cosine",
    mask: Tensor | None = None,
    nonfinite: str = "raise",
    limit: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Offsets (Q + 1,), indices (n,) and scores (n,) of all whose score is at least ``threshold``,
    a number or (Q,); the first ``limit`` of each query."""
    scores, indices = topk(queries, prototypes, len(prototypes), metric, mask, nonfinite)
    least = torch.as_tensor(threshold, dtype=torch.float64).expand(len(queries))
    reached = (indices >= 0) & (scores.double() >= least[:, None])
    if limit is not None:
        reached[:, limit:] = False
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), reached.sum(1).cumsum(0)])
    return offsets, indices[reached], scores[reached]


def label_mask(
    queries: int,
    rows: int,
    same: tuple | None = None,
    different: tuple | None = None,
    allowed: tuple | None = None,
) -> Tensor:
    """(Q, M) bool: which pairs have the labels that are asked for; labels are lists of ints."""
    mask = torch.ones(queries, rows, dtype=torch.bool)
    for q in range(queries):
        for p in range(rows):
            mask[q, p] = (
                (same is None or same[0][q] == same[1][p])
                and (different is None or different[0][q] != different[1][p])
                and (allowed is None or allowed[1][p] in allowed[0][q])
            )
    return mask


def topk_of_groups(
    matches: tuple[Tensor, Tensor], groups: list[int], per_group: int, k: int
) -> tuple[Tensor, Tensor]:
    """(Q, k) of ``matches`` (Q, M), all of them in order: ``per_group`` of each group at most."""
    scores = torch.full((len(matches[0]), k), -torch.inf)
    indices = torch.full((len(matches[0]), k), -1)
    for q, (own_scores, own_indices) in enumerate(zip(*matches, strict=True)):
        chosen: list[int] = []
        for rank, p in enumerate(own_indices.tolist()):
            of_group = [groups[own_indices[r]] for r in chosen].count(groups[p])
            if p >= 0 and of_group < per_group and len(chosen) < k:
                chosen.append(rank)
        scores[q, : len(chosen)] = own_scores[chosen]
        indices[q, : len(chosen)] = own_indices[chosen]
    return scores, indices
