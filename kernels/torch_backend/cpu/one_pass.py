"""The k best of a block of queries, from all their scores at once."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...contract.request import Request
from ...products.fp64 import multiplies_in_fp64
from ...products.rounding import operand_roundoff
from ...proofs.fp32 import LARGEST_NORM, fp32_slack, upper_scores
from ...storage.operands import Operands
from .. import rescore
from ..float_search import search_vectors
from ..plan import choose_plan
from . import rescoring
from .certificate import certified
from .queries import Queries
from .shortlist import narrowed, padded, screen, select

_CPU = torch.device("cpu")


class Answer(NamedTuple):
    """What became of a block of queries."""

    scores: Tensor
    """(Q, k) fp32"""
    indices: Tensor
    """(Q, k) int64"""
    unproven: np.ndarray | None
    """(Q,) bool; None where all are proven"""
    rescored: int
    """Pairs evaluated in fp64."""


def whole(queries: Queries, operands: Operands, request: Request, size: int) -> Answer | None:
    """From scores all of which are taken in fp64; None where a norm is out of range."""
    if not operands.longest <= LARGEST_NORM or not multiplies_in_fp64(_CPU):
        return None
    scores = rescoring.of_all(queries, operands)
    if request.mask is not None:
        np.copyto(scores, -np.inf, where=~request.mask.numpy())
    best, indices = torch.from_numpy(scores).topk(size)
    exact, chosen = best.numpy(), indices.numpy()
    left_out = None
    if size < scores.shape[1]:
        left_out = exact[:, -1:] + rescoring.error_of(queries, operands.longest, request.metric)
    norms = rescoring.norms_at(operands, chosen)
    return _certified(queries, operands, request, exact, norms, chosen, left_out)


def screened(queries: Queries, operands: Operands, request: Request, size: int) -> Answer | None:
    """From shortlists by fp32 products; None where a norm is out of range, or products too coarse."""
    metric, rows, channels = request.metric, len(operands.rows), queries.wide.shape[1]
    slack = fp32_slack(metric, channels, operand_roundoff(_CPU))
    if not slack.linear < np.inf:
        return None
    values = torch.empty(len(queries.wide), padded(rows), dtype=torch.float32, device="cpu")
    scores = values[:, :rows]
    if not screen(queries.wide.float(), operands, scores):
        return None
    if request.mask is not None:
        scores.masked_fill_(~request.mask, -torch.inf)
    if metric == "cosine":
        reach = slack.of(1.0, 1.0)
    else:
        reach = slack.of(torch.from_numpy(queries.norms) * (1 + 2.0**-20), operands.longest)
    best = narrowed(*select(values, rows, size), request.k, rows, reach)
    del values, scores
    exact, norms = rescoring.of_listed(queries, operands, best.indices)
    indices = best.indices.numpy()
    if request.mask is not None:
        exact[best.values.numpy() == -np.inf] = -np.inf
    by_score = np.argsort(-exact, 1)
    exact, norms, indices = (np.take_along_axis(a, by_score, 1) for a in (exact, norms, indices))
    left_out = None
    if best.left is not None:
        upper = (best.left.double() + reach).numpy()
        nothing = upper == -np.inf
        upper[nothing] = 0.0
        left_out = upper_scores(upper, queries.norms, channels, metric)
        left_out[nothing] = -np.inf
    return _certified(queries, operands, request, exact, norms, indices, left_out)


def repaired(
    answer: Answer, queries: Queries, operands: Operands, request: Request, workspace: int
) -> None:
    """Search the queries that are not proven in general, and put what is found in place."""
    if answer.unproven is None:
        return
    rows = torch.from_numpy(answer.unproven).nonzero()[:, 0]
    shape = len(rows), len(operands.rows), queries.wide.shape[1], request.k
    plan = choose_plan(*shape, workspace, None)
    found = search_vectors(queries.given[rows], operands.rows.chunks, request.of(rows), plan)
    answer.scores[rows], answer.indices[rows] = found


def _certified(
    queries: Queries,
    operands: Operands,
    request: Request,
    exact: np.ndarray,
    norms: np.ndarray,
    indices: np.ndarray,
    left_out: np.ndarray | None,
) -> Answer:
    def settle(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        pairs = torch.from_numpy(rows), torch.from_numpy(indices[rows, columns])
        return rescore.pairs(queries.given, operands.rows, *pairs, request.metric).numpy()

    error = rescoring.error_of(queries, norms, request.metric)
    found = certified(exact, error, indices, left_out, request.k, settle)
    return Answer(*found, indices.size)
