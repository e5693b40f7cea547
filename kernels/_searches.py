"""Which body searches a bank."""

from torch import Tensor

from . import _int8_search, _ops
from ._coding import Coder
from ._collection import Collection
from ._int8_search import Found
from ._plan import plan


def search(
    queries: Tensor, collection: Collection, coder: Coder, k: int, mask: Tensor | None
) -> Found:
    """Scores and rows; ``mask`` by position. Arguments are checked, and on the bank's device."""
    from . import WORKSPACE_BYTES  # at call time: it can be set

    rows = collection.rows
    chosen = plan(len(queries), len(rows), rows.channels, k, WORKSPACE_BYTES, None)
    if coder.codes is not None and chosen.codes_pay:
        by_row = None if mask is None else collection.mask_by_row(mask)
        return _int8_search.search(queries, coder.codes, rows, k, by_row, chosen)
    by_row = collection.mask_by_row(mask)
    found = _ops.search(queries, rows.chunks, k, coder.metric, by_row, None, True)
    return Found(*found, repaired=0, rescored=0, screened=sum(c.nbytes for c in rows.chunks))
