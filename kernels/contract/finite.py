"""Which vectors are finite: those whose norm is a number of fp64. Others never match.

The root of a sum of squares: one that overflows, beyond norms of 1.3e154, is none.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

NONFINITE = ("raise", "exclude")
EXCLUDE = ' (or pass nonfinite="exclude")'
"""What an error about numbers that are not finite advises."""

_NORM_ELEMENTS = 1 << 18
"""Elements widened at a time: 2 MiB."""

SHORT = 2.0**-480
"""Below this norm, squares may underflow by more than the roundings that fp64_slack counts."""


def norms(vectors: Tensor) -> Tensor:
    """Euclidean norms (n,) fp64. A vector counts as non-finite where this is inf or NaN.

    Block by block: torch widens what it is given as a whole.
    """
    out = torch.empty(len(vectors), dtype=torch.float64, device=vectors.device)
    step = max(1, _NORM_ELEMENTS // vectors.shape[1])
    for start in range(0, len(vectors), step):
        part = slice(start, start + step)
        measure_norms(vectors[part], out[part], vectors.dtype)
    return out


def measure_norms(vectors: Tensor, out: Tensor, dtype: torch.dtype) -> None:
    """Fill ``out`` (n,) fp64 with the norms of vectors that were given in ``dtype``.

    Squares of fp64 alone underflow.
    """
    torch.linalg.vector_norm(vectors, dim=1, dtype=torch.float64, out=out)
    if dtype != torch.float64:
        return
    if vectors.shape[1] == 1:  # of which torch takes no square
        out.masked_fill_(out.square().isinf(), torch.inf)
    short = (out < SHORT).nonzero()[:, 0]
    if len(short):
        rows = vectors[short]
        largest = rows.abs().amax(1)
        scaled = rows / largest.where(largest > 0, 1)[:, None]
        out[short] = largest * torch.linalg.vector_norm(scaled, dim=1)


def require_finite(name: str, chunks: Sequence[Tensor], first_row: int = 0) -> None:
    """Raise if some vectors of ``chunks`` (n_i, C) are not finite (waits for their device)."""
    for chunk in chunks:
        refuse_nonfinite(name, ~norms(chunk).isfinite(), first_row)
        first_row += len(chunk)


def refuse_nonfinite(name: str, bad_rows: Tensor, first_row: int = 0) -> None:
    """Raise if the bool vector ``bad_rows`` marks any row (reads it back from its device)."""
    rows = bad_rows.nonzero()[:, 0]
    if len(rows):
        shown = ", ".join(str(int(r) + first_row) for r in rows[:5])
        raise ValueError(
            f"{name} must be finite{EXCLUDE}; "
            f"got NaN, inf or a norm beyond fp64 in row{'s' * (len(rows) > 1)} {shown}"
            f"{', ...' * (len(rows) > 5)}"
        )
