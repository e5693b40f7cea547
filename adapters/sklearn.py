"""scikit-learn's nearest-neighbour estimators, searching through a bank.

Each class is a subclass of scikit-learn's own of that name and takes its parameters, and one more:
``device``. Validation, votes, averages, graphs and output containers are scikit-learn's; the search
is ``flashmatch.PrototypeBank``'s. See docs/integrations/scikit-learn.md for what differs.
"""

import warnings
from collections.abc import Callable
from numbers import Integral
from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn import neighbors
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_array, check_is_fitted, validate_data
from torch import Tensor

from ._nearest import NearestRows

__all__ = [
    "KNeighborsClassifier",
    "KNeighborsRegressor",
    "KNeighborsTransformer",
    "NearestNeighbors",
]

_DISTANCES = {
    "cosine": "cosine",
    "euclidean": "euclidean",
    "l2": "euclidean",
    "minkowski": "euclidean",
    "sqeuclidean": "sqeuclidean",
}

Weights = str | Callable[[np.ndarray], np.ndarray] | None


class _SearchesBank(BaseEstimator):
    """What the estimators share: a bank of the training rows, made by ``fit``, not pickled."""

    metric: str
    p: int
    metric_params: dict | None
    algorithm: str
    device: torch.device | str | None
    n_neighbors: int
    _fit_X: np.ndarray

    def _fit(self, X: object, y: object = None):
        """scikit-learn's own, but no tree is grown whatever ``algorithm`` says."""
        self._require_metric()
        if issparse(X):
            check_array(X, input_name="X", estimator=self)  # raises: tells how to densify
        algorithm, self.algorithm = self.algorithm, "brute"
        self.__dict__.pop("_nearest", None)  # of other rows, should this be interrupted
        try:
            super()._fit(X, y)  # pyright: ignore[reportAttributeAccessIssue]
        finally:
            self.algorithm = algorithm
        self._nearest = self._prepared()
        return self

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
            where the metric is cosine and both sides are float32. Indices of the same shape.

        Raises:
            NotFittedError, TypeError, ValueError: also for n_neighbors above the training rows,
                and without X for as many as there are.
        """
        check_is_fitted(self)
        k = self._require_k(self.n_neighbors if n_neighbors is None else n_neighbors)
        if X is None:
            queries = self._fit_X
        else:
            queries = np.asarray(validate_data(self, X, reset=False, order="C"))
        self._require_enough(k, X is None, len(queries))
        distances, indices = self._search(queries, k + (X is None))
        if X is None:
            others = indices != np.arange(len(queries))[:, None]
            others[:, 0] &= ~others.all(axis=1)
            distances, indices = (a[others].reshape(-1, k) for a in (distances, indices))
        return (distances, indices) if return_distance else indices

    def _search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        if not hasattr(self, "_nearest"):  # unpickled
            self._nearest = self._prepared()
        narrow = self.metric == "cosine" and queries.dtype == self._fit_X.dtype == np.float32
        dtype = torch.float32 if narrow else torch.float64
        found = self._nearest.search(_on_device(queries, self.device), k, dtype)
        distances, indices = (tensor.cpu().numpy() for tensor in found)
        return distances, indices

    def _prepared(self) -> NearestRows:
        return NearestRows(_on_device(self._fit_X, self.device), _DISTANCES[self.metric])

    def _require_metric(self) -> None:
        if not isinstance(self.metric, str) or self.metric not in _DISTANCES:
            choices = ", ".join(map(repr, _DISTANCES))
            raise ValueError(f"metric must be one of {choices}; got {self.metric!r}")
        if self.metric == "minkowski" and self.p != 2:
            raise ValueError(f"p must be 2, the Euclidean distance; got {self.p!r}")
        if self.metric_params:
            raise ValueError(f"metric_params must be None or empty; got {self.metric_params!r}")

    def _require_k(self, k: object) -> int:
        if isinstance(k, bool) or not isinstance(k, Integral):
            raise TypeError(f"n_neighbors must be an integer; got {type(k).__name__}")
        if k < 1:
            raise ValueError(f"n_neighbors must be at least 1; got {k}")
        return int(k)

    def _require_enough(self, k: int, without_self: bool, n_queries: int) -> None:
        n_samples_fit = len(self._fit_X)
        if k + without_self > n_samples_fit:
            relation = "<" if without_self else "<="
            raise ValueError(
                f"n_neighbors must be {relation} n_samples_fit = {n_samples_fit}; "
                f"got n_neighbors = {k}, for n_samples = {n_queries} queries"
            )

    def __getstate__(self) -> dict:
        state = dict(super().__getstate__())
        state.pop("_nearest", None)
        return state

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = False
        return tags


def _on_device(X: np.ndarray, device: torch.device | str | None) -> Tensor:
    """X as a tensor: float32 as it is, all else in float64; shares memory where it can."""
    X = X if X.dtype == np.float32 else np.asarray(X, dtype=np.float64)
    with warnings.catch_warnings():  # of memory that must not be written; nothing is
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(X).to("cpu" if device is None else device)


class NearestNeighbors(_SearchesBank, neighbors.NearestNeighbors):
    """Exact nearest neighbours: ``sklearn.neighbors.NearestNeighbors`` through a bank.

    Args:
        n_neighbors: neighbours per query where ``kneighbors`` is not told.
        radius: of ``radius_neighbors``, which is scikit-learn's own brute force.
        metric: ``"minkowski"`` with p = 2, ``"euclidean"`` or ``"l2"``, all one;
            ``"sqeuclidean"``; ``"cosine"``.
        device: where to search; None: on the CPU.
        algorithm, leaf_size, n_jobs: taken and ignored; torch's threads do the work.
        metric_params: None or empty.
    """

    def __init__(
        self,
        *,
        n_neighbors: int = 5,
        radius: float = 1.0,
        algorithm: str = "auto",
        leaf_size: int = 30,
        metric: str = "minkowski",
        p: int = 2,
        metric_params: dict | None = None,
        n_jobs: int | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(
            n_neighbors=n_neighbors,
            radius=radius,
            algorithm=algorithm,
            leaf_size=leaf_size,
            metric=metric,
            p=p,
            metric_params=metric_params,
            n_jobs=n_jobs,
        )
        self.device = device


class KNeighborsTransformer(_SearchesBank, neighbors.KNeighborsTransformer):
    """A sparse graph of neighbours, for what takes precomputed distances: t-SNE, Isomap, DBSCAN.

    Args:
        mode: ``"distance"``, with the row itself and ``n_neighbors`` more; or ``"connectivity"``.

    Others as of ``NearestNeighbors``.
    """

    def __init__(
        self,
        *,
        mode: str = "distance",
        n_neighbors: int = 5,
        algorithm: str = "auto",
        leaf_size: int = 30,
        metric: str = "minkowski",
        p: int = 2,
        metric_params: dict | None = None,
        n_jobs: int | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(
            mode=mode,
            n_neighbors=n_neighbors,
            algorithm=algorithm,
            leaf_size=leaf_size,
            metric=metric,
            p=p,
            metric_params=metric_params,
            n_jobs=n_jobs,
        )
        self.device = device


class _Weighs(_SearchesBank):
    """What votes and means share: neighbours that count alike, or by their distance."""

    def __init__(
        self,
        n_neighbors: int = 5,
        *,
        weights: Weights = "uniform",
        algorithm: str = "auto",
        leaf_size: int = 30,
        p: int = 2,
        metric: str = "minkowski",
        metric_params: dict | None = None,
        n_jobs: int | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        settings = {
            "n_neighbors": n_neighbors,
            "weights": weights,
            "algorithm": algorithm,
            "leaf_size": leaf_size,
            "p": p,
            "metric": metric,
            "metric_params": metric_params,
            "n_jobs": n_jobs,
        }
        super().__init__(**settings)
        self.device = device


class KNeighborsClassifier(_Weighs, neighbors.KNeighborsClassifier):
    """The vote of the nearest neighbours.

    Args:
        weights: ``"uniform"``, ``"distance"`` or a function of distances (Q, k); as scikit-learn's.

    Others as of ``NearestNeighbors``.
    """

    def _fit(self, X: object, y: object = None):
        super()._fit(X, y)
        self._fit_method = "bank"  # where it is "brute", predict finds a way around for "l2"
        return self


class KNeighborsRegressor(_Weighs, neighbors.KNeighborsRegressor):
    """The mean of the nearest neighbours' targets.

    Args: as of ``KNeighborsClassifier``.
    """
