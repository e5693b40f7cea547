"""Whether what a bank knows of its vectors is true of them: every bound that a screen relies on.

Whoever coded may have had another processor, whose fp32 sums differ in their last bits. So what is
measured here is held to what is stored with the roundings that proofs/int8.py counts for either.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..codes.pages import Codes
from ..proofs.fp32 import U32
from .clean_rows import cleaned
from .coder import Coder, steps
from .collection import Collection

_FLOOR = 1e-16
"""More than underflow takes from a norm."""


class Mismatch(NamedTuple):
    """Rows first..last, of which something is known that is not true."""

    first: int
    last: int
    what: str


def find_mismatch(collection: Collection, coder: Coder) -> Mismatch | None:
    """The first one, or None. Reads every vector."""
    rows, device = collection.rows, collection.device
    for part, start, stop in steps(coder.codes, 0, len(rows), rows.channels):
        vectors, norms, bad = cleaned(rows, start, stop, device, exclude=True)
        known = torch.zeros(stop - start, dtype=torch.bool, device=device)
        here = (collection.nonfinite >= start) & (collection.nonfinite < stop)
        known[(collection.nonfinite[here] - start).to(device)] = True
        what = None
        if not torch.equal(known, torch.zeros_like(known) if bad is None else bad):
            what = "which of them are finite"
        elif part is not None:
            what = _wrong(part, start - part.first_row, vectors, norms)
        if what is not None:
            return Mismatch(start, stop - 1, what)
    return None


def _wrong(part: Codes, first: int, vectors: Tensor, norms: Tensor) -> str | None:
    """What of the codes from row ``first`` of ``part`` on is not so of ``vectors`` (n, C)."""
    roundings = (part.channels + part.frame.roundings + 16) * U32
    if not bool(((part.norms[first:][: len(norms)] - norms).abs() <= roundings * norms).all()):
        return "norms"
    stop = -(-(first + len(norms)) // part.layout.span) * part.layout.span
    positions = torch.arange(first, stop, device=part.device)
    row = part.rows_at(positions) - first
    matchable = ~part.unmatchable[first:stop] & (row < len(norms))
    positions, row = positions[matchable], row[matchable]
    scale, error, size, bias = part.bounds[part.layout.group_of(positions)].double().unbind(1)
    codes = part.held.read(first, stop)[positions - first, : part.channels]
    coded = codes.double() * scale[:, None]
    vectors = part.frame.prototypes(vectors, norms)[row].double()
    length = torch.linalg.vector_norm(vectors, dim=1)
    slack = roundings * (length + part.frame.origin_norm) + _FLOOR
    least = (length + slack).square() * (-0.5 * (part.frame.metric == "l2"))
    for bounded, what in (
        (torch.linalg.vector_norm(vectors - coded, dim=1) <= error + slack, "errors of codes"),
        (torch.linalg.vector_norm(coded, dim=1) <= size + slack, "sizes of codes"),
        (least <= bias, "lengths"),
    ):
        if not bool(bounded.all()):
            return what
    return None
