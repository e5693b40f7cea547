"""The k best of a block of queries, from all their scores at once."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...contract.request import Request
from ...products.fp64 import multiplies_in_fp64
from ...products.rounding import operand_roundoff
from ...proofs import bf16
from ...proofs.fp32 import LARGEST_NORM, fp32_slack
from ...storage.operands import Operands
from .. import rescore
from ..float_search import search_vectors
from ..plan import choose_plan
from . import rescoring
from .certificate import Bounds, certified
from .plan import OnePass
from .queries import Queries
from .shortlist import Listed, listed

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

    def failed(self) -> Tensor:
        """(n,) int64: the queries that are not proven."""
        assert self.unproven is not None
        return torch.from_numpy(self.unproven.nonzero()[0])

    def mended(self, rows: Tensor, found: "Answer") -> "Answer":
        """With what is ``found`` of ``rows`` (n,), which are not proven, in place."""
        assert self.unproven is not None
        self.scores[rows], self.indices[rows] = found.scores, found.indices
        self.unproven[rows.numpy()] = False if found.unproven is None else found.unproven
        unproven = self.unproven if self.unproven.any() else None
        return Answer(self.scores, self.indices, unproven, self.rescored + found.rescored)


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
        bounds = Bounds(queries, metric, slack, (taken, bf16.roundoff_of(operands.are_halves)))

        def promises(values: Tensor, longest: float, k: int) -> bool:
            return bounds.hopeless(values, longest, k) <= GIVE_UP

        found = listed(multiplied, operands, request, plan, scratch, promises)
    else:
        bounds = Bounds(queries, metric, slack, None)
        found = listed(queries.given.float(), operands, request, plan, scratch)
    if found is None or not found.longest <= LARGEST_NORM:
        return None
    lists = _Lists(bounds, operands, request, plan, found)
    first = lists.looked_at(slice(0, plan.first))
    answer = lists.answered(first)
    if answer.unproven is None or not plan.is_ordered:
        return answer
    rows = answer.failed()
    few = lists.of(rows)
    more = few.looked_at(slice(plan.first, plan.size))
    found_of_few = few.answered(first.of(rows).beside(more))
    return answer.mended(rows, found_of_few._replace(rescored=more.exact.size))


class _Looked(NamedTuple):
    """What is looked at in fp64."""

    exact: np.ndarray
    """(Q, n) fp64 scores, -inf of what may not match."""
    norms: np.ndarray | None
    """(Q, n) fp64 of the prototypes, as ``rescoring.error_of`` asks for them."""
    indices: np.ndarray
    """(Q, n) int64"""

    def of(self, rows: Tensor) -> "_Looked":
        at, norms = rows.numpy(), self.norms
        return _Looked(self.exact[at], None if norms is None else norms[at], self.indices[at])

    def beside(self, other: "_Looked") -> "_Looked":
        """With what the same queries have in ``other``."""
        norms = None
        if self.norms is not None and other.norms is not None:
            norms = np.concatenate((self.norms, other.norms), 1)
        exact = np.concatenate((self.exact, other.exact), 1)
        return _Looked(exact, norms, np.concatenate((self.indices, other.indices), 1))


class _Lists(NamedTuple):
    """What is listed for each of a block of queries, those of ``bounds``."""

    bounds: Bounds
    operands: Operands
    request: Request
    plan: OnePass
    found: Listed

    def of(self, rows: Tensor) -> "_Lists":
        """Of the queries ``rows`` (n,)."""
        bounds, request, found = (x.of(rows) for x in (self.bounds, self.request, self.found))
        return self._replace(bounds=bounds, request=request, found=found)

    def looked_at(self, columns: slice) -> _Looked:
        """In fp64, of what is listed in these columns."""
        indices, tile_rows = self.found.indices[:, columns], self.plan.tile_rows
        exact, norms = rescoring.of_listed(self.bounds.queries, self.operands, indices, tile_rows)
        if self.request.mask is not None:
            exact[self.found.values[:, columns].numpy() == -np.inf] = -np.inf
        return _Looked(exact, norms, indices.numpy())

    def answered(self, looked: _Looked) -> Answer:
        """From the first columns, which are ``looked`` at."""
        values, end, left_out = self.found.values.numpy(), looked.exact.shape[1], None
        if end < self.plan.size:  # no other looks better than the next
            left_out = self.bounds.left_out(values[:, end : end + 1], self.found.longest)
        elif end < len(self.operands.rows):  # than the worst of these
            worst = values.min(1, keepdims=True)
            left_out = self.bounds.left_out(worst, self.found.longest)
        return _certified(self.bounds.queries, self.operands, self.request, *looked, left_out)


def repair(
    answer: Answer, queries: Queries, operands: Operands, request: Request, workspace: int
) -> None:
    """Search the queries that are not proven in general, and put what is found in place."""
    rows = answer.failed()
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
