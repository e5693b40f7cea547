"""The k best of a block of queries, from all their scores at once."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...contract.request import Request
from ...products.fp64 import multiplies_in_fp64
from ...products.rounding import operand_roundoff
from ...proofs import bf16
from ...proofs.fp32 import LARGEST_NORM, Slack, fp32_slack, upper_scores
from ...storage.operands import Operands
from .. import rescore
from ..float_search import search_vectors
from ..plan import choose_plan
from . import rescoring
from .certificate import certified
from .plan import OnePass
from .queries import Queries
from .shortlist import listed

_CPU = torch.device("cpu")

GIVE_UP = 0.5
"""Where more of a block's queries are not proven, ties by the dozen, say, it is left to what is
quicker for many at once, or more precise."""


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
    norms = None if request.metric == "cosine" else rescoring.norms_at(operands, chosen)
    return _certified(queries, operands, request, exact, norms, chosen, left_out)


def screened(
    queries: Queries,
    operands: Operands,
    request: Request,
    plan: OnePass,
    scratch: Tensor,
    in_halves: bool,
) -> Answer | None:
    """From shortlists by fp32 products; None where a norm is out of range, or products too coarse.

    ``in_halves``: by bf16 products of rows and queries, which are rounded if need be. ``scratch``
    (n,) fp32 is written to.
    """
    metric, channels = request.metric, queries.wide.shape[1]
    slack = fp32_slack(metric, channels, 0.0 if in_halves else operand_roundoff(_CPU))
    if not slack.linear < np.inf:
        return None
    if in_halves:
        multiplied, taken = queries.in_halves()
        bounds = _Bounds(queries, metric, slack, (taken, bf16.roundoff_of(operands.are_halves)))
        found = listed(multiplied, operands, request, plan, scratch, bounds.promise)
    else:
        bounds = _Bounds(queries, metric, slack, None)
        found = listed(queries.given.float(), operands, request, plan, scratch)
    if found is None or not found.longest <= LARGEST_NORM:
        return None
    exact, norms = rescoring.of_listed(queries, operands, found.indices, plan.tile_rows)
    looking_best, indices = found.values.numpy(), found.indices.numpy()
    if request.mask is not None:
        exact[looking_best == -np.inf] = -np.inf
    left_out = None
    if plan.size < len(operands.rows):
        left_out = bounds.left_out(looking_best.min(1, keepdims=True), found.longest)
    if not (exact[:, :-1] >= exact[:, 1:]).all():
        by_score = np.arange(len(exact))[:, None], np.argsort(-exact, 1)
        exact, indices = exact[by_score], indices[by_score]
        norms = None if norms is None else norms[by_score]
    return _certified(queries, operands, request, exact, norms, indices, left_out)


class _Bounds(NamedTuple):
    """How far what some queries were screened for may be from what it stands for."""

    queries: Queries
    metric: str
    slack: Slack
    rounded: tuple[np.ndarray, float] | None
    """As ``bf16.reach`` has it, where products are in bf16."""

    def left_out(self, looking_worst: np.ndarray, longest: float) -> np.ndarray:
        """(Q, 1) fp64: what no score exceeds of a prototype that looks no better than that."""
        nothing = looking_worst == -np.inf
        upper = self._screened(np.where(nothing, 0.0, looking_worst))
        norms, metric = self.queries.norms, self.metric
        if self.rounded is not None:
            upper += bf16.reach(upper, norms, longest, metric, self.rounded)
        if metric == "cosine":
            upper += self.slack.of(1.0, 1.0)
        else:
            upper += self.slack.of(norms * (1 + 2.0**-20), np.full((1, 1), longest))
        scores = upper_scores(upper, norms, self.queries.wide.shape[1], metric)
        scores[nothing] = -np.inf
        return scores

    def promise(self, values: Tensor, longest: float, k: int) -> bool:
        """Whether most of the first queries may be proven, from what is listed (n, size)."""
        first = torch.arange(len(values), device="cpu")
        rounded = self.rounded and (self.rounded[0][: len(values)], self.rounded[1])
        some = self._replace(queries=self.queries.of(first), rounded=rounded)
        best = values.topk(k).values.numpy()
        kth = some._screened(best[:, -1:])
        if self.metric == "l2":
            kth = 2 * kth - some.queries.norms**2
        left_out = some.left_out(values.numpy().min(1, keepdims=True), longest)
        return bool(((kth <= left_out) & (left_out > -np.inf)).mean() <= GIVE_UP)

    def _screened(self, values: np.ndarray) -> np.ndarray:
        """(Q, 1) fp64, in screen units, of products as they are listed."""
        wide = values.astype(np.float64)
        return wide / self.queries.lengths if self.metric == "cosine" else wide


def repair(
    answer: Answer, queries: Queries, operands: Operands, request: Request, workspace: int
) -> None:
    """Search the queries that are not proven in general, and put what is found in place."""
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
    norms: np.ndarray | None,
    indices: np.ndarray,
    left_out: np.ndarray | None,
) -> Answer:
    def settle(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        pairs = torch.from_numpy(rows), torch.from_numpy(indices[rows, columns])
        return rescore.pairs(queries.given, operands.rows, *pairs, request.metric).numpy()

    error = rescoring.error_of(queries, norms, request.metric)
    found = certified(exact, error, indices, left_out, request.k, settle)
    return Answer(*found, indices.size)
