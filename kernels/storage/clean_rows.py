"""Rows as codes can take them: finite, and far from overflow."""

import torch
from torch import Tensor

from ..contract import finite
from ..contract.chunks import Rows
from ..proofs.fp32 import LARGEST_NORM

_ELEMENTS = 1 << 19


def screen_norms(vectors: Tensor) -> Tensor:
    """Norms (n,) in fp32 of rows as given, in cache-sized pieces."""
    step = max(1, _ELEMENTS // vectors.shape[1])
    parts = [torch.linalg.vector_norm(part.float(), dim=1) for part in vectors.split(step)]
    return torch.cat(parts)


def is_in_range(norms: Tensor) -> bool:
    """Whether vectors with these norms, fp32, can be coded: finite, and far from overflow."""
    return bool(norms.max() <= LARGEST_NORM)


def cleaned(
    rows: Rows, start: int, stop: int, device: torch.device, exclude: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Rows start..stop (n, C), their norms (n,) in fp32, and which (n,) are not finite, if any are.

    Those are zeros in the first two, or refused unless ``exclude``.
    """
    vectors = rows.span(start, stop, device)
    norms = screen_norms(vectors)
    if is_in_range(norms):
        return vectors, norms, None
    bad = ~finite.norms(vectors).isfinite()
    if not exclude:
        finite.refuse_nonfinite("prototypes", bad, start)
    return vectors.masked_fill(bad[:, None], 0), norms.masked_fill(bad, 0), bad
