"""flashmatch.adapters.sklearn beside sklearn.neighbors, both fitted before the clock starts."""

from collections.abc import Callable

import numpy as np
from sklearn import neighbors

from flashmatch.adapters import sklearn as ours

from . import ranges
from .pairs import Case, Pair


def _kneighbors(queries: int, rows: int, channels: int, k: int, metric: str) -> Pair:
    X, asked = _rows(rows, channels, 0), _rows(queries, channels, 1)
    one, other = (
        library.NearestNeighbors(n_neighbors=k, metric=metric, algorithm="brute").fit(X)
        for library in (ours, neighbors)
    )
    return Pair(lambda: other.kneighbors(asked), lambda: one.kneighbors(asked), _same_sets)


def _predict(queries: int, rows: int, channels: int, k: int) -> Pair:
    X, asked = _rows(rows, channels, 0), _rows(queries, channels, 1)
    labels = np.random.default_rng(2).integers(0, 10, rows)
    one, other = (
        library.KNeighborsClassifier(n_neighbors=k, algorithm="brute").fit(X, labels)
        for library in (ours, neighbors)
    )
    return Pair(lambda: other.predict(asked), lambda: one.predict(asked), _same)


def _within(queries: int, rows: int, channels: int, share: float) -> Pair:
    """All within a distance that about ``share`` of the pairs are within."""
    X, asked = _rows(rows, channels, 0), _rows(queries, channels, 1)
    one, other = (
        library.NearestNeighbors(algorithm="brute").fit(X) for library in (ours, neighbors)
    )
    known = one.kneighbors(asked[:16], rows)[0]
    radius = float(np.quantile(known, share)) if share < 1 else 2 * float(known.max())
    return Pair(
        lambda: other.radius_neighbors(asked, radius),
        lambda: one.radius_neighbors(asked, radius),
        lambda theirs, mine: ranges.share(_in_range(theirs), _in_range(mine), radius),
    )


def _rows(rows: int, channels: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, channels), dtype=np.float32)


def _same_sets(theirs: tuple[np.ndarray, ...], mine: tuple[np.ndarray, ...]) -> float:
    """Of two (distances, indices): the share of neighbours found by both."""
    pairs = zip(theirs[1], mine[1], strict=True)
    return float(np.mean([np.isin(row, other).mean() for row, other in pairs]))


def _in_range(found: tuple[np.ndarray, ...]) -> ranges.InRange:
    lims = np.cumsum([0, *map(len, found[1])])
    return ranges.InRange(lims, *map(np.concatenate, found))


def _same(theirs: np.ndarray, mine: np.ndarray) -> float:
    return float(np.mean(theirs == mine))


def _case(name: str, size: str, prepare: Callable[[], Pair]) -> Case:
    return Case(f"sklearn {name}", "scikit-learn", size, prepare)


def _nearest(metric: str) -> Case:
    name, size = f"NearestNeighbors.kneighbors, {metric}", "1000 x 100000 x 128, k = 10"
    return _case(name, size, lambda: _kneighbors(1000, 100_000, 128, 10, metric))


def _classifier() -> Case:
    name, size = "KNeighborsClassifier.predict, euclidean", "1000 x 20000 x 64, k = 5"
    return _case(name, size, lambda: _predict(1000, 20_000, 64, 5))


def _radius(share: float) -> Case:
    size = f"1000 x 20000 x 64, {share:.2%} of the pairs"
    return _case(
        "NearestNeighbors.radius_neighbors, euclidean",
        size,
        lambda: _within(1000, 20_000, 64, share),
    )


SHARES = (1e-4, 0.01, 0.1, 1.0)

CASES = (
    _nearest("cosine"),
    _nearest("euclidean"),
    _classifier(),
    *(_radius(share) for share in SHARES),
)
