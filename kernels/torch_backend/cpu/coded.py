"""A search of a bank's codes by threads with blocks of their own: of queries, or of pages."""

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
from .guess import take_guess
from .plan import LEAST_QUERIES


def search_shared(
    queries: Tensor, codes: Codes, rows: Rows, request: Request, workspace: int, workers: int
) -> Found:
    """As ``int8_search.search_codes``, within ``workspace`` bytes."""
    count = queries.shape[0]
    # Workers that share the pages each rescore k of their own.
    by_queries = count >= workers * LEAST_QUERIES or request.k * workers > LEAST_QUERIES
    blocks = even_slices(count, workers if by_queries else 1)
    shape = blocks[-1].stop - blocks[-1].start, len(rows), rows.channels, request.k
    plan = choose_plan(*shape, workspace // workers, None)
    shares = _shares(codes, 1 if by_queries else workers)
    tasks = [
        partial(
            search_codes, queries[block], codes, rows, request.of(block), plan, runs, take_guess
        )
        for block in blocks
        for runs in shares
    ]
    found = in_workers(tasks, workers)
    each = len(shares)
    merged = [_best_of(found[i : i + each], request.k) for i in range(0, len(found), each)]
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


def _best_of(found: list[Found], k: int) -> Found:
    """The k best of what is found in several shares of the pages; a query is repaired once."""
    if len(found) == 1:
        return found[0]
    scores, rows = order.best_of([(part.scores, part.rows) for part in found], k)
    repaired = max(int(part.repaired) for part in found)
    rescored, screened = (sum(getattr(f, name) for f in found) for name in ("rescored", "screened"))
    return Found(scores, rows, repaired, rescored, screened)
