"""What is asked of training rows: the k nearest, all within a radius, and votes of either."""

from typing import Any

import numpy as np
import torch
from sklearn import config_context
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from ...kernels.contract.arguments import require_int
from .._nearest import NearestRows
from .._within import within
from .fitted import SearchesBank, tensor_of


class SearchesNearest(SearchesBank):
    """``kneighbors``, of which scikit-learn makes graphs and predictions."""

    n_neighbors: int
    _kind_of_rows = NearestRows

    def kneighbors(
        self, X: Any = None, n_neighbors: int | None = None, return_distance: bool = True
    ) -> tuple[np.ndarray, np.ndarray] | np.ndarray:
        """The nearest training rows of each query: distance ascending, then index ascending.

        Args:
            X: (Q, C) queries. None: the training rows, none of which is its own neighbour. Where
                more rows equal it than are asked for, the first of these is left out instead.
            n_neighbors: neighbours per query; None: as constructed.
            return_distance: False returns the indices alone.

        Returns:
            Distances (Q, n_neighbors), evaluated in fp64 from the vectors; float64, or float32
            where the metric is cosine and both sides are float32. Indices of the same shape. What
            is not searched here, scikit-learn searches: by other metrics, and what is sparse.

        Raises:
            NotFittedError, TypeError, ValueError: also for n_neighbors above the training rows,
                and without X for as many as there are.
        """
        check_is_fitted(self)
        k = _count(self.n_neighbors if n_neighbors is None else n_neighbors)
        queries = self._asked(X)
        if queries is None or not 0 < k <= self.n_samples_fit_ - (X is None):
            return super().kneighbors(X, k, return_distance)  # pyright: ignore[reportAttributeAccessIssue]
        distances, indices = self._nearest_of(queries, k + (X is None))
        if X is None:
            others = indices != np.arange(len(queries))[:, None]
            others[:, 0] &= ~others.all(axis=1)
            distances, indices = (a[others].reshape(-1, k) for a in (distances, indices))
        return (distances, indices) if return_distance else indices

    def _nearest_of(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        rows = self._rows()
        assert isinstance(rows, NearestRows)
        dtype = torch.float32 if self._is_narrow(queries) else torch.float64
        distances, indices = rows.search(tensor_of(queries, rows.device), k, dtype)
        return distances.cpu().numpy(), indices.cpu().numpy()


class SearchesWithin(SearchesBank):
    """``radius_neighbors``, of which scikit-learn makes graphs and predictions."""

    radius: float

    def radius_neighbors(
        self,
        X: Any = None,
        radius: Any = None,
        return_distance: bool = True,
        sort_results: bool = False,
    ) -> tuple[np.ndarray, np.ndarray] | np.ndarray:
        """All training rows within a radius: whose distance, as ``kneighbors`` has it, is <= it.

        Args:
            X: (Q, C) queries. None: the training rows, none of which is its own neighbour.
            radius: a number, or an array (Q,) of each query's; None: as constructed.
            return_distance: False returns the indices alone.
            sort_results: distance ascending, then index ascending; False: index ascending.

        Returns:
            Distances and indices, each (Q,) of arrays, in the dtypes of ``kneighbors``. Memory
            beyond them is bounded by theirs and some 100 MiB. What is not searched here,
            scikit-learn searches, and takes an array ``radius`` where it has a tree.

        Raises:
            NotFittedError, TypeError, ValueError: also for a radius below 0, or NaN.
        """
        check_is_fitted(self)
        radius = self.radius if radius is None else radius
        queries = self._asked(X)
        if queries is None or (sort_results and not return_distance):
            return super().radius_neighbors(  # pyright: ignore[reportAttributeAccessIssue]
                X, radius, return_distance, sort_results
            )
        owners, distances, indices = self._within_of(queries, radius)
        if X is None:
            others = indices != owners
            owners, distances, indices = owners[others], distances[others], indices[others]
        if sort_results:
            order = np.lexsort((distances, owners))
            distances, indices = distances[order], indices[order]
        ends = np.bincount(owners, minlength=len(queries)).cumsum()
        cut = _cut(indices, ends)
        return (_cut(distances, ends), cut) if return_distance else cut

    def _within_of(self, queries: np.ndarray, radius: Any) -> list[np.ndarray]:
        rows = self._rows()
        dtype = np.float32 if self._is_narrow(queries) else np.float64
        limits = _limits(radius, len(queries), dtype).to(rows.device)
        found = within(rows, tensor_of(queries, rows.device), limits)
        return [tensor.cpu().numpy() for tensor in found]


class Votes(SearchesBank):
    """Classes by the search that the estimator has: scikit-learn knows ways around it."""

    def predict(self, X: Any) -> np.ndarray:
        """The class of each query (Q,), or (Q, outputs); X as for the search."""
        with self._by_search():
            return super().predict(X)  # pyright: ignore[reportAttributeAccessIssue]

    def predict_proba(self, X: Any) -> np.ndarray | list[np.ndarray]:
        """The classes' shares of each query's votes (Q, classes), or a list of one per output."""
        with self._by_search():
            return super().predict_proba(X)  # pyright: ignore[reportAttributeAccessIssue]

    def _by_search(self):
        """For this thread: where metric and dtype allow it, votes would be counted in Cython."""
        own = self._distance is not None
        return config_context(enable_cython_pairwise_dist=False if own else None)


def _count(k: Any) -> int:
    """n_neighbors as an int; if it is none, the error is scikit-learn's."""
    try:
        return require_int("n_neighbors", k)
    except TypeError:
        what = type(k).__name__
        raise TypeError(f"n_neighbors does not take a {what} value, enter integer value") from None


def _limits(radius: Any, n_queries: int, dtype: type) -> Tensor:
    """The largest distance (Q,) of ``dtype`` that NumPy finds <= radius."""
    given = np.asarray(radius)
    if given.dtype.kind not in "fiu":
        what = given.dtype if isinstance(radius, np.ndarray) else type(radius).__name__
        raise TypeError(f"radius must be a real number, or an array of them; got {what}")
    if given.shape not in ((), (1,), (n_queries,)):
        raise ValueError(
            f"radius must be one number or have shape ({n_queries},), one for each query; "
            f"got shape {given.shape}"
        )
    if not (given >= 0).all():
        raise ValueError(f"radius must be at least 0; got {given[~(given >= 0)].flat[0]}")
    with np.errstate(over="ignore"):
        limits = np.atleast_1d(given).astype(dtype)
        below = np.nextafter(limits, dtype(-np.inf))
        limits = np.where(limits <= (radius if given.ndim == 0 else given), limits, below)
    return torch.from_numpy(np.broadcast_to(limits, (n_queries,)).copy())


def _cut(values: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """(Q,) of arrays: values[:ends[0]], values[ends[0]:ends[1]], ..."""
    parts = np.empty(len(ends), dtype=object)
    parts[:] = np.split(values, ends[:-1])
    return parts
