"""The door: check once, then search. First stand-in body; the kernels replace it."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, cat

from . import _checks, _reference


class Matches(NamedTuple):
    """The k best prototypes of each query: score descending, then index ascending."""

    scores: Tensor
    indices: Tensor


def topk(
    queries: Tensor,
    prototypes: Tensor | Sequence[Tensor],
    k: int,
    *,
    metric: str = "cosine",
    mask: Tensor | None = None,
    chunk_rows: int | None = None,
    nonfinite: str = "raise",
) -> Matches:
    _checks.require_vectors("queries", queries)
    chunks = _checks.require_prototypes(prototypes)
    return Matches(*_reference.topk(queries, cat(chunks), k, metric, mask, nonfinite))
