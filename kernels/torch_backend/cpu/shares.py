"""A search in one pass, shared among threads by queries, or by prototypes where queries are few."""

from functools import partial
from queue import SimpleQueue

import numpy as np
import torch
from torch import Tensor

from ...concurrency.workers import in_workers
from ...contract import order
from ...contract.chunks import even_slices
from ...contract.request import Request
from ...storage.operands import Operands
from . import one_pass
from .one_pass import Answer, repair, screened, whole
from .plan import OnePass
from .queries import Queries, measured


def search(
    queries: Tensor, operands: Operands, request: Request, plan: OnePass, workspace: int
) -> Answer | None:
    """The k best of each query (Q, C).

    None where something is not finite, or out of range, or most queries of a block are not proven:
    not for this search.
    """
    queries = queries.detach()
    if plan.widens:
        operands = operands.widened(screened=not plan.whole)
    if plan.whole:  # fp64, which autocast lets alone
        return _answer(queries, operands, request, plan, workspace, None)
    if plan.workers == 1 and torch.is_autocast_enabled("cpu"):
        with torch.autocast("cpu", enabled=False):
            return search(queries, operands, request, plan, workspace)
    if plan.query_rows == queries.shape[0] and plan.row_tasks == 1:
        return _answer(queries, operands, request, plan, workspace, _scratch(plan))
    if plan.query_rows < len(queries):
        operands.measure(plan.workers)  # once for all blocks
    rows = even_slices(len(operands.rows), plan.row_tasks)
    parts = [(at.start, operands.part(at.start, at.stop)) for at in rows]
    blocks = [slice(at, at + plan.query_rows) for at in range(0, len(queries), plan.query_rows)]
    share, scratches = workspace // plan.workers, SimpleQueue[Tensor]()
    for _ in range(plan.workers):  # once: memory that nobody has touched costs more than products
        scratches.put(_scratch(plan))
    tasks = [
        partial(_task, queries[block], part, first, request.of(block), plan, share, scratches)
        for block in blocks
        for first, part in parts
    ]
    answers = in_workers(tasks, plan.workers)
    found = [answer for answer in answers if answer is not None]
    if len(found) < len(answers):
        return None
    each = len(parts)
    return _joined([_merged(found[i : i + each], request.k) for i in range(0, len(found), each)])


def _scratch(plan: OnePass) -> Tensor:
    return torch.empty(plan.scores, dtype=torch.float32, device="cpu")


def _task(
    queries: Tensor,
    operands: Operands,
    first: int,
    request: Request,
    plan: OnePass,
    workspace: int,
    scratches: "SimpleQueue[Tensor]",
) -> Answer | None:
    """Of some queries and prototypes, which are numbered from ``first``."""
    scratch = scratches.get()
    try:
        if request.mask is not None:
            request = request.masked(request.mask_of(first, first + len(operands.rows)))
        answer = _answer(queries, operands, request, plan, workspace, scratch)
        if answer is not None and first:
            answer.indices[answer.indices >= 0] += first
        return answer
    finally:
        scratches.put(scratch)


def _answer(
    queries: Tensor,
    operands: Operands,
    request: Request,
    plan: OnePass,
    workspace: int,
    scratch: Tensor | None,
) -> Answer | None:
    """Of some queries, from all ``operands`` at once."""
    block = measured(queries)
    if block is None:
        return None
    if scratch is None:
        answer = whole(block, operands, request, plan.size)
    else:
        answer = _screened(block, operands, request, plan, scratch)
    if answer is None or answer.unproven is None:
        return answer
    if answer.unproven.mean() > one_pass.GIVE_UP:
        return None
    repair(answer, block, operands, request, workspace // 4)
    return answer


def _screened(
    block: Queries, operands: Operands, request: Request, plan: OnePass, scratch: Tensor
) -> Answer | None:
    """Where bf16 leaves queries unproven, fp32 is asked next: it tells more scores apart."""
    answer = screened(block, operands, request, plan, scratch, plan.in_halves)
    if answer is None and plan.in_halves:
        return screened(block, operands, request, plan, scratch, False)
    if answer is None or answer.unproven is None or not plan.in_halves:
        return answer
    rows = answer.failed()
    found = screened(block.of(rows), operands, request.of(rows), plan, scratch, False)
    if found is None:
        return None
    return answer.mended(rows, found)


def _merged(answers: list[Answer], k: int) -> Answer:
    """The k best of what is found among several parts of the prototypes."""
    if len(answers) == 1:
        return answers[0]
    found = order.best_of([(answer.scores, answer.indices) for answer in answers], k)
    failed = [answer.unproven for answer in answers if answer.unproven is not None]
    unproven = np.logical_or.reduce(failed) if failed else None
    return Answer(*found, unproven, sum(answer.rescored for answer in answers))


def _joined(answers: list[Answer]) -> Answer:
    """Of blocks of queries, one behind another."""
    if len(answers) == 1:
        return answers[0]
    scores, indices, marks, rescored = zip(*answers, strict=True)
    unproven = None
    if any(mark is not None for mark in marks):
        each = zip(marks, scores, strict=True)
        unproven = np.concatenate([np.zeros(len(s), bool) if m is None else m for m, s in each])
    return Answer(torch.cat(scores), torch.cat(indices), unproven, sum(rescored))
