"""The gate: what the right answer is, and how much of a provider's answer agrees with it.

Every checked query is searched in full in fp64, block by block, keeping k + MARGIN candidates.
The oracle (kernels/contract/reference.py) then scores those candidates by its own definition, and
the order is its own: fp32-rounded score descending, index ascending. What was not kept scored less
than the k-th by more than any rounding of the fp64 blocks could explain; where that fails (mass
ties), and for a sample of queries in any case, the oracle scores every prototype.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from flashmatch.kernels.contract import reference

MARGIN = 32
MAX_CHECKED = 1024  # of more queries, this many evenly spaced ones
IN_FULL = 2  # queries for which the oracle sees every prototype
SLACK = 1e-10  # of the largest score: 10,000 times what fp64 blocks may be off
BLOCK_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Truth:
    checked: Tensor  # (n,) which queries
    indices: Tensor  # (n, k)


def truth(queries: Tensor, prototypes: Tensor, k: int, metric: str) -> Truth:
    n = min(len(queries), MAX_CHECKED)
    checked = torch.linspace(0, len(queries) - 1, n, dtype=torch.float64).long()
    checked = checked.to(queries.device)
    kept = min(k + MARGIN, len(prototypes))
    values, candidates = _candidates(queries[checked].double(), prototypes, kept, metric)
    slack = SLACK * max(1.0, values.abs().max().item())
    indices = torch.empty(n, k, dtype=torch.int64, device=queries.device)
    for i in range(n):
        scores, order = _order(queries[checked[i]], prototypes, candidates[i], metric)
        proven = kept == len(prototypes) or values[i, -1] < scores[k - 1].double() - slack
        indices[i] = order[:k] if proven else _in_full(queries[checked[i]], prototypes, k, metric)
    for i in {0, n - 1} if n >= IN_FULL else {0}:
        if not torch.equal(indices[i], _in_full(queries[checked[i]], prototypes, k, metric)):
            raise RuntimeError(f"the gate contradicts the oracle at query {int(checked[i])}")
    return Truth(checked, indices)


def agreement(truth: Truth, indices: Tensor) -> float:
    """The share of (query, rank) places that hold the oracle's index."""
    found = indices.to(truth.indices.device)[truth.checked]
    if found.shape != truth.indices.shape:
        return 0.0
    return (found == truth.indices).double().mean().item()


def _candidates(queries: Tensor, prototypes: Tensor, kept: int, metric: str) -> tuple:
    """The ``kept`` best of each query by blocked fp64 products: values and row numbers."""
    rows = max(1, min(len(prototypes), 16384, BLOCK_BYTES // (8 * len(queries))))
    best_values = queries.new_empty(len(queries), 0)
    best_rows = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
    for start in range(0, len(prototypes), rows):
        block = _block(queries, prototypes[start : start + rows].double(), metric)
        values, columns = block.topk(min(kept, block.shape[1]), dim=1)
        values = torch.cat([best_values, values], 1)
        columns = torch.cat([best_rows, columns + start], 1)
        best_values, places = values.topk(min(kept, values.shape[1]), dim=1)
        best_rows = columns.gather(1, places)
    return best_values, best_rows


def _block(queries: Tensor, prototypes: Tensor, metric: str) -> Tensor:
    if metric == "cosine":
        eps = reference.COSINE_EPS
        queries = queries / queries.norm(dim=1, keepdim=True).clamp(min=eps)
        prototypes = prototypes / prototypes.norm(dim=1, keepdim=True).clamp(min=eps)
    products = queries @ prototypes.T
    if metric == "l2":
        squares = queries.square().sum(1)[:, None] + prototypes.square().sum(1)
        return 2 * products - squares
    return products


def _order(query: Tensor, prototypes: Tensor, rows: Tensor, metric: str) -> tuple[Tensor, Tensor]:
    """Oracle scores of the given rows, best first, and those rows."""
    rows = rows.sort().values  # ascending, and the sort below is stable
    scores = reference.scores(query[None], prototypes[rows], metric)[0]
    best = scores.sort(descending=True, stable=True)
    return best.values, rows[best.indices]


def _in_full(query: Tensor, prototypes: Tensor, k: int, metric: str) -> Tensor:
    """The oracle's answer over every prototype, in blocks: its scores are row by row."""
    rows = max(1, BLOCK_BYTES // (8 * prototypes.shape[1]))
    scores = [reference.scores(query[None], part, metric)[0] for part in prototypes.split(rows)]
    return torch.cat(scores).sort(descending=True, stable=True).indices[:k]
