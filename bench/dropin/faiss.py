"""The FAISS adapter beside FAISS."""

from collections.abc import Callable
from functools import partial
from typing import Any

import faiss
import numpy as np

import flashmatch.adapters.faiss as ours

from . import ranges
from .pairs import Case, Pair

K = 10
EVERY_OTHER = "IndexIDMap2.search, every other id"
SIZES = ((256, 262144, 128), (16, 100000, 512))
RANGE_SIZE = 256, 50_000, 128
SHARES = (1e-4, 0.01, 0.1, 0.5, 1.0)
"""Of all pairs: what is within the threshold."""


def search(name: str, queries: int, rows: int, channels: int) -> Callable[[], Pair]:
    def prepare() -> Pair:
        xq, xb = _vectors(queries, rows, channels)
        original, mine = (getattr(library, name)(channels) for library in (faiss, ours))
        for index in (original, mine):
            index.add(xb)
        calls = (partial(own(index, "search"), xq, K) for index in (original, mine))
        return Pair(*calls, share=_share_of_labels)

    return prepare


def selected(queries: int, rows: int, channels: int) -> Callable[[], Pair]:
    """Every other id, of an index with ids."""

    def prepare() -> Pair:
        xq, xb = _vectors(queries, rows, channels)
        ids, calls = np.random.default_rng(1).permutation(rows), []
        for library in (faiss, ours):
            index = library.IndexIDMap2(library.IndexFlatIP(channels))
            index.add_with_ids(xb, ids)
            params = library.SearchParameters(sel=library.IDSelectorBatch(np.arange(0, rows, 2)))
            calls.append(partial(own(index, "search"), xq, K, params=params))
        return Pair(*calls, share=_share_of_labels)

    return prepare


def in_range(queries: int, rows: int, channels: int, share: float) -> Callable[[], Pair]:
    """All within a squared distance that about ``share`` of the pairs are within."""

    def prepare() -> Pair:
        xq, xb = _vectors(queries, rows, channels)
        original, mine = (library.IndexFlatL2(channels) for library in (faiss, ours))
        for index in (original, mine):
            index.add(xb)
        known = mine.search(xq[:16], rows)[0]
        threshold = float(np.quantile(known, share)) if share < 1 else 2 * float(known.max())
        calls = (partial(own(index, "range_search"), xq, threshold) for index in (original, mine))
        return Pair(*calls, share=partial(_share_of_pairs, threshold))

    return prepare


def own(index: Any, name: str) -> Callable[..., tuple]:
    """The library's: faiss.contrib.torch_utils, which other cases import, replaces FAISS's."""
    return getattr(index, f"{name}_numpy", getattr(index, name))


def _vectors(queries: int, rows: int, channels: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    xq, xb = (rng.standard_normal((n, channels), dtype=np.float32) for n in (queries, rows))
    return xq, xb


def _share_of_labels(original: Any, mine: Any) -> float:
    return float((original[1] == mine[1]).mean())


def _share_of_pairs(threshold: float, original: Any, mine: Any) -> float:
    return ranges.share(ranges.InRange(*original), ranges.InRange(*mine), threshold)


def _size(queries: int, rows: int, channels: int) -> str:
    return f"{queries} x {rows} x {channels}, k = {K}"


CASES = [
    *(
        Case(f"faiss {name}.search", "faiss-cpu", _size(*size), search(name, *size))
        for name in ("IndexFlatIP", "IndexFlatL2")
        for size in SIZES
    ),
    Case(f"faiss {EVERY_OTHER}", "faiss-cpu", _size(*SIZES[1]), selected(*SIZES[1])),
    *(
        Case(
            "faiss IndexFlatL2.range_search", "faiss-cpu",
            f"{' x '.join(map(str, RANGE_SIZE))}, {share:.2%} of the pairs",
            in_range(*RANGE_SIZE, share),
        )
        for share in SHARES
    ),
]  # fmt: skip
