"""A search of vectors as given: query block by query block, chunk by chunk of prototypes."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ..contract.chunks import Rows, brought
from ..contract.request import Request
from .float_scan import FloatScan
from .plan import Plan
from .query_block import QueryBlock


def search_vectors(
    queries: Tensor, prototypes: list[Tensor], request: Request, plan: Plan
) -> tuple[Tensor, Tensor]:
    """Scores (Q, k) fp32 and indices (Q, k) int64."""
    device, rows_of_all = queries.device, Rows(prototypes)
    scores = torch.empty(len(queries), request.k, dtype=torch.float32, device=device)
    indices = torch.empty(len(queries), request.k, dtype=torch.int64, device=device)
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        for start in range(0, len(queries), plan.query_rows):
            part = slice(start, start + plan.query_rows)
            own = request.of(part)
            scan = FloatScan(QueryBlock(queries[part], start, rows_of_all, own, plan))
            for first, rows in _chunks(prototypes, plan.chunk_rows, device):
                scan.scan(rows, first, own.mask_of(first, first + len(rows)))
            scores[part], indices[part] = scan.result()
    return scores, indices


def _chunks(
    prototypes: list[Tensor], chunk_rows: int, device: torch.device
) -> Iterator[tuple[int, Tensor]]:
    """First row and rows of each pass over the prototypes; small tensors go through together."""
    first, count = 0, 0
    waiting: list[Tensor] = []
    for tensor in prototypes:
        for rows in tensor.split(chunk_rows):
            if count and count + len(rows) > chunk_rows:
                yield first, _as_one(waiting)
                first, count, waiting = first + count, 0, []
            if len(rows):
                waiting.append(brought(rows, device))
                count += len(rows)
    if count:
        yield first, _as_one(waiting)


def _as_one(chunks: list[Tensor]) -> Tensor:
    """Joined in a dtype that holds them all exactly."""
    return chunks[0] if len(chunks) == 1 else torch.cat(chunks)
