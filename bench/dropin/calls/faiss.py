"""Thresholds, a set against itself and labels, beside FAISS's flat index.

The index has its vectors, and ours is a bank. Of labels FAISS has none: it is told beforehand which
ids have each, or given an index for each, where ours takes labels with every search.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import faiss
import numpy as np
import torch
from torch import Tensor

from flashmatch.kernels import Matches, RangeMatches

from .. import ranges
from ..faiss import own
from ..pairs import Case, Pair
from ..ranges import InRange
from . import ranks
from .data import bank_of, random_labels, size_of, threshold_of, unit_vectors

K = 10
LABELS = 1000
QUERIES = 256, 100_000, 128
LABELLED = 1024, 100_000, 128
AMONG_THEMSELVES = 20_000, 128
SHARES = (1e-4, 0.01, 0.1)
"""Of all pairs: what reaches the threshold."""
Search = Callable[..., tuple[np.ndarray, ...]]


def within(queries: int, rows: int, channels: int, share: float) -> Pair:
    asked, prototypes = unit_vectors(queries, channels, 1), unit_vectors(rows, channels, 0)
    threshold = threshold_of(asked, prototypes, share)
    return Pair(
        partial(own(_index(prototypes), "range_search"), asked.numpy(), threshold),
        partial(bank_of(prototypes).within, asked, threshold, sort=False),
        partial(_share_of_ranges, threshold),
    )


def pairs(rows: int, channels: int, share: float) -> Pair:
    x = unit_vectors(rows, channels, 0)
    half = rows // 2
    threshold = threshold_of(x[:half], x[half:], share)
    search = own(_index(x), "range_search")
    return Pair(
        lambda: each_once(*search(x.numpy(), threshold)),
        partial(bank_of(x).pairs, threshold, sort=False),
        partial(_share_of_ranges, threshold),
    )


def neighbors(rows: int, channels: int) -> Pair:
    x = unit_vectors(rows, channels, 0)
    search = own(_index(x), "search")
    return Pair(
        lambda: others(*search(x.numpy(), K + 1)),
        partial(bank_of(x).neighbors, K),
        partial(_share_of_ranks, x, x),
    )


def same(
    queries: int,
    rows: int,
    channels: int,
    count: int,
    searches_of: Callable[[Tensor, list[np.ndarray]], Mapping[int, Search]],
) -> Pair:
    """The best of the query's label; ``searches_of`` gives FAISS's search of each."""
    asked, prototypes = unit_vectors(queries, channels, 1), unit_vectors(rows, channels, 0)
    own_labels, labels = random_labels(queries, count, 3), random_labels(rows, count, 2)
    members = [(labels == label).nonzero()[:, 0].numpy() for label in range(count)]
    searches = searches_of(prototypes, members)
    return Pair(
        partial(label_by_label, searches, asked.numpy(), own_labels.numpy()),
        partial(bank_of(prototypes).topk, asked, K, same=(own_labels, labels)),
        partial(_share_of_ranks, asked, prototypes),
    )


def selected(prototypes: Tensor, members: list[np.ndarray]) -> Mapping[int, Search]:
    """One index, and a selector of each label's ids."""
    search, searches = own(_index(prototypes), "search"), {}
    for label, ids in enumerate(members):
        selector = faiss.IDSelectorBatch(ids)
        params = faiss.SearchParameters(sel=selector)  # pyright: ignore[reportCallIssue]
        searches[label] = partial(search, params=params)
    return searches


def apart(prototypes: Tensor, members: list[np.ndarray]) -> Mapping[int, Search]:
    """An index for each label."""
    searches = {}
    for label, ids in enumerate(members):
        index = faiss.IndexIDMap(faiss.IndexFlatIP(prototypes.shape[1]))
        index.add_with_ids(prototypes[torch.from_numpy(ids)].numpy(), ids)
        searches[label] = own(index, "search")
    return searches


def label_by_label(
    searches: Mapping[int, Search], asked: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(Q, k) scores and ids; queries of one label share a search."""
    scores = np.empty((len(asked), K), np.float32)
    ids = np.empty((len(asked), K), np.int64)
    for label in np.unique(labels):
        rows = labels == label
        scores[rows], ids[rows] = searches[label](asked[rows], K)
    return scores, ids


def others(scores: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(M, k) of (M, k + 1), of a set against itself: without each one's own, or else the last."""
    is_other = ids != np.arange(len(ids))[:, None]
    is_other[is_other.all(1), -1] = False  # k + 1 duplicates, or what rounds higher
    scores, ids = (part[is_other].reshape(len(ids), -1) for part in (scores, ids))
    return scores, ids


def each_once(lims: np.ndarray, scores: np.ndarray, ids: np.ndarray) -> InRange:
    """The pairs (i, j) with i < j, of a set against itself."""
    queries = InRange(lims, scores, ids).queries()
    is_first = queries < ids
    counts = np.bincount(queries[is_first], minlength=len(lims) - 1)
    return InRange(np.append(0, counts.cumsum()), scores[is_first], ids[is_first])


def _index(vectors: Tensor) -> Any:
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors.numpy())
    return index


def _share_of_ranges(threshold: float, original: Any, ours: RangeMatches) -> float:
    return ranges.share(InRange(*original), ranges.of_matches(ours), threshold)


def _share_of_ranks(
    queries: Tensor, prototypes: Tensor, original: tuple[np.ndarray, ...], ours: Matches
) -> float:
    theirs = Matches(*map(torch.from_numpy, original))
    return ranks.share(theirs, ours, ranks.evaluated(queries, prototypes, ours.indices))


def _case(call: str, peer: str, size: str, prepare: Callable[[], Pair]) -> Case:
    return Case(f"PrototypeBank.{call} beside faiss {peer}", "faiss-cpu", size, prepare)


CASES = [
    *(
        _case(
            "within, sort=False,", "range_search", f"{size_of(*QUERIES)}, {share:.2%} of the pairs",
            partial(within, *QUERIES, share),
        )
        for share in SHARES
    ),
    _case(
        "pairs, sort=False,", "range_search, i < j kept",
        f"{size_of(*AMONG_THEMSELVES)}, {SHARES[0]:.2%} of the pairs",
        partial(pairs, *AMONG_THEMSELVES, SHARES[0]),
    ),
    _case(
        "neighbors", "search of k + 1", f"{size_of(*AMONG_THEMSELVES)}, k = {K}",
        partial(neighbors, *AMONG_THEMSELVES),
    ),
    *(
        _case(
            "topk, same=,", peer, f"{size_of(*LABELLED)}, {LABELS} labels, k = {K}",
            partial(same, *LABELLED, LABELS, searches_of),
        )
        for peer, searches_of in (("IDSelectorBatch", selected), ("an index per label", apart))
    ),
]  # fmt: skip
