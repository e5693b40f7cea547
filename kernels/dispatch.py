"""Which body searches a bank."""

import torch
from torch import Tensor

from . import operators
from .codes.pages import Codes
from .contract.chunks import Rows
from .storage.coder import Coder
from .storage.collection import Collection
from .torch_backend import int8_search
from .torch_backend.int8_search import Found
from .torch_backend.plan import plan


def search(
    queries: Tensor, collection: Collection, coder: Coder, k: int, mask: Tensor | None
) -> Found:
    """Scores and rows; ``mask`` by position. Arguments are checked, and on the bank's device."""
    from . import WORKSPACE_BYTES  # at call time: it can be set

    if mask is None or mask.ndim == 1 or collection.matchable() is None:
        return _search(queries, collection, coder, k, mask, WORKSPACE_BYTES)
    # A mask by row is another (Q, M) bytes: made for as many queries as its share has room for.
    share = WORKSPACE_BYTES // 8
    step = max(1, share // len(collection.rows))
    scores = queries.new_empty(len(queries), k, dtype=torch.float32)
    rows = queries.new_empty(len(queries), k, dtype=torch.int64)
    repaired, rescored, screened = 0, 0, 0
    for start in range(0, len(queries), step):
        part = slice(start, start + step)
        found = _search(queries[part], collection, coder, k, mask[part], WORKSPACE_BYTES - share)
        scores[part], rows[part] = found.scores, found.rows
        repaired = repaired + found.repaired
        rescored, screened = rescored + found.rescored, screened + found.screened
    return Found(scores, rows, repaired, rescored, screened)


def _search(
    queries: Tensor,
    collection: Collection,
    coder: Coder,
    k: int,
    mask: Tensor | None,
    workspace: int,
) -> Found:
    rows = collection.rows
    chosen = plan(len(queries), len(rows), rows.channels, k, workspace, None)
    if coder.codes is not None and chosen.codes_pay:
        by_row = None if mask is None else collection.mask_by_row(mask)
        if queries.is_cuda:
            found = _on_cuda(queries, coder.codes, rows, k, by_row)
            if found is not None:
                return found
        return int8_search.search(queries, coder.codes, rows, k, by_row, chosen)
    by_row = collection.mask_by_row(mask)
    found = operators.search(queries, rows.chunks, k, coder.metric, by_row, None, True)
    return Found(*found, repaired=0, rescored=0, screened=sum(c.nbytes for c in rows.chunks))


def _on_cuda(
    queries: Tensor, codes: Codes, rows: Rows, k: int, mask: Tensor | None
) -> Found | None:
    """By the Triton body, where it takes the search; counts stay on the device, and unread."""
    try:
        from .triton_backend import int8_search
    except ImportError:  # no triton for this platform: the torch body runs on the device
        return None
    if not int8_search.supports(queries, codes, rows, k):
        return None
    scores, indices, flags = int8_search.search(queries, rows, codes, k, mask, exclude=True)
    screened = sum(part.codes.nbytes for part in codes.parts)
    return Found(scores, indices, flags[int8_search.REPAIRED], 0, screened)
