"""The door for raw vectors where a score is given, and all that reaches it is wanted."""

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from .arrays.returned import in_kind_of
from .arrays.taken import AnyArray, as_mask, as_prototypes, as_threshold, as_vectors
from .contract import arguments
from .contract.chunks import Rows
from .contract.finite import NONFINITE
from .contract.matches import RangeMatches
from .contract.metrics import METRICS
from .contract.request import RangeRequest
from .dispatch import workspace_bytes
from .labels.asked import Asked, as_asked
from .labels.ranges import labelled_within
from .operators.range_scores import differentiable, refuse_transforms
from .torch_backend.ranges.range_search import within_vectors


def within(
    queries: AnyArray,
    prototypes: AnyArray | str | os.PathLike,
    threshold: float | AnyArray,
    *,
    metric: str = "cosine",
    mask: AnyArray | None = None,
    limit: int | None = None,
    sort: bool = True,
    chunk_rows: int | None = None,
    nonfinite: str = "raise",
    same: tuple[AnyArray, AnyArray] | None = None,
    different: tuple[AnyArray, AnyArray] | None = None,
    allowed: tuple[Sequence[AnyArray], AnyArray] | None = None,
) -> RangeMatches:
    """All prototypes of each query whose score is at least ``threshold``, exactly.

    Scores are those of ``flashmatch.topk``, evaluated in fp64 and rounded once to fp32, and it is
    these that are compared: what ``topk`` would list down to ``threshold`` is what is found here,
    to the last pair and for every chunk size, batch size and device.

    Args:
        queries, prototypes, metric, mask, chunk_rows, nonfinite, same, different, allowed: as of
            ``flashmatch.topk``.
        threshold: a number, or one for each query (Q,); not NaN. Larger is more similar: squared
            distances of at most d are ``metric="l2", threshold=-d``.
        limit: the most matches of a query, of which the best are kept; None = all.
        sort: the matches of a query by score descending, then index ascending; False leaves them by
            index, which takes less time where there are many.

    Returns:
        ``RangeMatches(offsets, indices, scores)``, a CSR matrix on the queries' device and of their
        kind: query q has ``indices[offsets[q]:offsets[q + 1]]`` and the scores there. Scores are
        differentiable with respect to queries and prototypes; how many there are is not.

    Raises:
        TypeError, ValueError: naming the argument, what was expected, and what was given.
        NotImplementedError: under torch.func, whose results have shapes known beforehand.

    Time is O(Q M C), and O(n log n) for n pairs that are sorted. Memory beyond inputs is at most
    ``flashmatch.kernels.WORKSPACE_BYTES`` and about five times the result. The torch backend
    searches on every device.
    """
    sort = arguments.require_bool("sort", sort)
    given, queries = queries, as_vectors("queries", queries)
    about = metric, mask, chunk_rows, nonfinite
    chunks, request = _asked(queries, prototypes, threshold, *about, limit)
    asked = as_asked([queries, *chunks], sum(map(len, chunks)), same, different, allowed)
    found = _in_range(queries, chunks, request, asked, sort)
    return in_kind_of(given, differentiable(found, queries, chunks, metric))


def count_within(
    queries: AnyArray,
    prototypes: AnyArray | str | os.PathLike,
    threshold: float | AnyArray,
    *,
    metric: str = "cosine",
    mask: AnyArray | None = None,
    chunk_rows: int | None = None,
    nonfinite: str = "raise",
    same: tuple[AnyArray, AnyArray] | None = None,
    different: tuple[AnyArray, AnyArray] | None = None,
    allowed: tuple[Sequence[AnyArray], AnyArray] | None = None,
) -> Any:
    """How many prototypes each query has within ``threshold``: (Q,) int64, where the queries are
    and of their kind.

    Arguments and errors are those of ``within``, whose pairs these are; none is kept, so that
    memory beyond inputs is at most ``flashmatch.kernels.WORKSPACE_BYTES``.
    """
    given, queries = queries, as_vectors("queries", queries)
    about = metric, mask, chunk_rows, nonfinite
    chunks, request = _asked(queries, prototypes, threshold, *about, None)
    asked = as_asked([queries, *chunks], sum(map(len, chunks)), same, different, allowed)
    found = _in_range(queries, chunks, replace(request, counts_only=True), asked, False)
    return in_kind_of(given, found.offsets.diff())


def _asked(
    queries: Tensor,
    prototypes: AnyArray | str | os.PathLike,
    threshold: float | AnyArray,
    metric: str,
    mask: AnyArray | None,
    chunk_rows: int | None,
    nonfinite: str,
    limit: int | None,
) -> tuple[list[Tensor], RangeRequest]:
    """The prototypes' chunks, and what is asked for."""
    arguments.require_vectors("queries", queries)
    chunks = arguments.require_prototypes(as_prototypes(prototypes))
    arguments.require_same_channels(queries, chunks)
    rows = sum(map(len, chunks))
    arguments.require_k(0, rows)  # that there are not too many
    arguments.require_choice("metric", metric, METRICS)
    arguments.require_choice("nonfinite", nonfinite, NONFINITE)
    mask = as_mask(mask, queries.device)
    arguments.require_mask(mask, len(queries), rows, queries.device)
    if chunk_rows is not None:
        chunk_rows = arguments.require_int("chunk_rows", chunk_rows, least=1)
    limit = arguments.require_limit(limit)
    least = arguments.require_threshold(as_threshold(threshold), len(queries), queries.device)
    refuse_transforms([queries, *chunks])
    exclude = nonfinite == "exclude"
    return chunks, RangeRequest(1, metric, mask, chunk_rows, exclude, least, limit)


def _in_range(
    queries: Tensor, chunks: list[Tensor], request: RangeRequest, asked: Asked | None, sort: bool
) -> RangeMatches:
    if asked is not None:
        return labelled_within(queries.detach(), chunks, request, asked, sort)
    rows = Rows([chunk.detach() for chunk in chunks])
    return within_vectors(queries.detach(), rows, request, sort, workspace_bytes())
