"""A search of a bank's codes, shared among threads: by queries, or by pages where queries are few."""

from functools import partial

import torch
from torch import Tensor

from ...codes.pages import Codes
from ...concurrency.workers import in_workers
from ...contract import order
from ...contract.chunks import Rows, even_slices
from ...contract.matches import Found
from ...contract.request import Request
from ..int8_search import Run, search_codes
from ..plan import choose_plan
from .plan import FEW_QUERIES, WORKER_BYTES

_SHARED_WORK = 1 << 29
"""From so many multiplications on, those of eight queries besides, for the reading of codes."""


def search(queries: Tensor, codes: Codes, rows: Rows, request: Request, workspace: int) -> Found:
    """As ``int8_search.search_codes``, with a plan that fits into ``workspace`` bytes."""
    count, channels = queries.shape
    work = (count + 8) * len(rows) * channels
    workers = min(torch.get_num_threads(), workspace // WORKER_BYTES)
    if queries.device.type != "cpu" or work < _SHARED_WORK:
        workers = 1
    by_queries = count >= workers * FEW_QUERIES or request.k * workers > FEW_QUERIES
    blocks = even_slices(count, workers if by_queries else 1)
    most = max(block.stop - block.start for block in blocks)
    plan = choose_plan(most, len(rows), channels, request.k, workspace // max(workers, 1), None)
    # Blocks no larger than a plan's, so that whoever is done first takes the next.
    blocks = [
        slice(at, min(at + plan.coded_queries, block.stop))
        for block in blocks
        for at in range(block.start, block.stop, plan.coded_queries)
    ]
    shares = _shares(codes, 1 if by_queries else workers)
    tasks = [
        partial(search_codes, queries[block], codes, rows, request.of(block), plan, runs)
        for block in blocks
        for runs in shares
    ]
    found = in_workers(tasks, workers)
    each = len(shares)
    merged = [_merged(found[i : i + each], request.k) for i in range(0, len(found), each)]
    if len(merged) == 1:
        return merged[0]
    scores, indices, *counts = zip(*merged, strict=True)
    return Found(torch.cat(scores), torch.cat(indices), *map(sum, counts))


def _shares(codes: Codes, count: int) -> list[list[Run]]:
    """The pages of all parts, in so many shares."""
    shares = [[(codes, at.start, at.stop)] for at in even_slices(codes.pages, count)]
    if codes.tail is not None:
        shares[-1].append((codes.tail, 0, codes.tail.pages))
    return shares


def _merged(found: list[Found], k: int) -> Found:
    """The k best of what is found in several shares of the pages; a query is repaired once."""
    if len(found) == 1:
        return found[0]
    keys = [
        order.pack(part.scores, part.rows).masked_fill_(part.rows < 0, order.EMPTY)
        for part in found
    ]
    scores, rows = order.unpack(torch.cat(keys, 1).topk(k).values)
    repaired = max(int(part.repaired) for part in found)
    rescored, screened = (sum(getattr(f, name) for f in found) for name in ("rescored", "screened"))
    return Found(scores, rows, repaired, rescored, screened)
