"""Which body searches a bank."""

from torch import Tensor

from . import _int8, _ops
from ._coding import Coder
from ._collection import Collection
from ._int8 import Found


def search(
    queries: Tensor, collection: Collection, coder: Coder, k: int, mask: Tensor | None
) -> Found:
    """Scores and rows; ``mask`` by position. Arguments are checked, and on the bank's device."""
    rows = collection.rows
    if coder.codes is not None and _int8.pays(len(queries), len(rows), rows.channels, k):
        by_row = None if mask is None else collection.mask_by_row(mask)
        return _int8.search(queries, coder.codes, rows, k, by_row, exclude=True)
    by_row = collection.mask_by_row(mask)
    found = _ops.search(queries, rows.chunks, k, coder.metric, by_row, None, True)
    return Found(*found, repaired=0, rescored=0, screened=sum(c.nbytes for c in rows.chunks))
