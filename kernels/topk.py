"""The door for raw vectors: arguments are checked here, once."""

import os
from collections.abc import Sequence

from .arrays.returned import in_kind_of
from .arrays.taken import AnyArray, as_mask, as_prototypes, as_vectors
from .contract import arguments
from .contract.finite import NONFINITE
from .contract.matches import Matches, no_matches
from .contract.metrics import METRICS
from .contract.request import Request
from .labels.asked import as_asked
from .labels.searches import best_of_vectors
from .operators.transforms import transformable_topk


def topk(
    queries: AnyArray,
    prototypes: AnyArray | str | os.PathLike,
    k: int,
    *,
    metric: str = "cosine",
    mask: AnyArray | None = None,
    chunk_rows: int | None = None,
    nonfinite: str = "raise",
    same: tuple[AnyArray, AnyArray] | None = None,
    different: tuple[AnyArray, AnyArray] | None = None,
    allowed: tuple[Sequence[AnyArray], AnyArray] | None = None,
    groups: AnyArray | None = None,
    per_group: int | None = None,
) -> Matches:
    """The k most similar prototypes of each query, exactly.

    A score is the metric's definition evaluated in fp64 from the vectors as given and rounded once
    to fp32. Matches are ordered by score descending, then index ascending, so ties are stable. The
    result does not depend on ``chunk_rows``, on how queries are batched or on the device.

    Args:
        queries: (Q, C), float32, float16, bfloat16 or float64, any strides: a tensor; an array of
            NumPy, or of any library with DLPack or an array interface; a column of vectors of
            pyarrow, pandas or polars; a sequence of rows. Memory is shared where it can be.
        prototypes: (M, C) of any of these, or a sequence of (M_i, C) that are chunks of one set,
            numbered through, as a column in several parts is; or the path of an .npy or safetensors
            file. Dtype and device may differ from the queries' and from each other's. Chunks
            elsewhere are brought to the queries' device piece by piece.
        k: matches per query, 0 <= k <= M.
        metric: ``"cosine"``: q.p / (max(|q|, 1e-8) max(|p|, 1e-8)), as torch.cosine_similarity;
            ``"dot"``: q.p; ``"l2"``: -|q - p|^2. Larger is more similar.
        mask: bool, (M,) or (Q, M), of any kind; True = may match. A tensor is on the queries'
            device; others are brought there.
        chunk_rows: prototypes per pass; None = chosen. Changes speed and memory only.
        nonfinite: ``"raise"`` refuses vectors with NaN, inf or a norm beyond fp64; ``"exclude"``
            never returns such a prototype and gives such a query -inf and -1 throughout.
        same: ``(query_labels, prototype_labels)``, integers (Q,) and (M,) of any kind of array: a
            query matches prototypes of its label alone.
        different: a pair of the same kind: a query matches prototypes of other labels alone.
        allowed: ``(label_sets, prototype_labels)``: Q sequences of integers, and (M,): a query
            matches prototypes of the labels in its set; of an empty set, none.
        groups: integers (M,): of each group a query has the ``per_group`` best at most.
        per_group: 1 unless given, with ``groups`` alone.

        Whatever is given of ``mask``, ``same``, ``different`` and ``allowed`` has to hold together.

    Returns:
        ``Matches(scores, indices)``, on the queries' device: tensors for tensors; for JAX, CuPy and
        others with an array namespace, their arrays; for all else NumPy's. Scores of tensors are
        differentiable with respect to queries and prototypes, through the selected pairs; indices
        are not. Where masks, labels or groups leave fewer than k, the rest is -inf and -1.

    Raises:
        TypeError, ValueError: naming the argument, what was expected, and what was given.
        NotImplementedError: labels or groups under torch.func, torch.export or torch.compile.

    Time is O(Q M C); with ``same``, that of the pairs of one label. Memory beyond inputs and
    outputs is at most ``flashmatch.kernels.WORKSPACE_BYTES``, whatever Q, M and k; labels and
    groups take some numbers for each prototype besides, and no (Q, M) mask.
    """
    given, queries = queries, as_vectors("queries", queries)
    arguments.require_vectors("queries", queries, meta_too=True)
    chunks = arguments.require_prototypes(as_prototypes(prototypes), meta_too=queries.is_meta)
    if queries.is_meta and not all(chunk.is_meta for chunk in chunks):  # else shapes are asked for
        arguments.require_dense("queries", queries)
    arguments.require_same_channels(queries, chunks)
    count, rows = (
        queries.shape[0],
        sum(chunk.shape[0] for chunk in chunks),
    )  # len() would fix what torch.export keeps open
    k = arguments.require_k(k, rows)
    arguments.require_choice("metric", metric, METRICS)
    arguments.require_choice("nonfinite", nonfinite, NONFINITE)
    mask = as_mask(mask, queries.device)
    arguments.require_mask(mask, count, rows, queries.device)
    if chunk_rows is not None:
        chunk_rows = arguments.require_int("chunk_rows", chunk_rows, least=1)
    asked = as_asked([queries, *chunks], rows, same, different, allowed, groups, per_group)
    if count == 0 or k == 0:
        return in_kind_of(given, no_matches(queries, k))
    request = Request(k, metric, mask, chunk_rows, exclude=nonfinite == "exclude")
    if asked is not None:
        return in_kind_of(given, best_of_vectors(queries, chunks, request, asked))
    return in_kind_of(given, Matches(*transformable_topk(queries, chunks, request)))
