"""What was fitted, and who searches it: a bank where it can, scikit-learn where it cannot."""

import warnings
from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.base import BaseEstimator
from sklearn.metrics import DistanceMetric
from sklearn.neighbors import BallTree, KDTree
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from ...kernels.contract.arguments import require_device
from .._measured import MeasuredRows

_DISTANCES = {
    "cosine": "cosine",
    "euclidean": "euclidean",
    "l2": "euclidean",
    "sqeuclidean": "sqeuclidean",
}
_EUCLIDEAN = type(DistanceMetric.get_metric("euclidean"))


class SearchesBank(BaseEstimator):
    """What the estimators share: a bank of the training rows, made by ``fit``, not pickled.

    Parameters may change after ``fit``; that of metric, rows and device which was fitted is what
    searches go by.
    """

    metric: str
    p: float
    metric_params: dict | None
    algorithm: str
    device: torch.device | str | None
    effective_metric_: Any
    effective_metric_params_: dict
    n_samples_fit_: int
    _fit_X: Any
    _tree: Any

    _kind_of_rows: type[MeasuredRows] = MeasuredRows
    _distance: str | None = None
    """Of ``MeasuredRows``; None: scikit-learn searches, as of metrics that these have not."""

    def __init__(
        self, *args: Any, device: torch.device | str | None = None, **parameters: Any
    ) -> None:
        super().__init__(*args, **parameters)
        self.device = device

    def _fit(self, X: Any, y: Any = None):
        """scikit-learn's own, but no tree is grown where a bank searches."""
        self._device()  # raises
        if isinstance(X, BaseEstimator):
            check_is_fitted(X)
        self.__dict__.pop("_prepared", None)  # of other rows, should this be interrupted
        algorithm = self.algorithm
        if not issparse(X) and self._is_metric_of_a_bank():
            self._check_algorithm_metric()  # pyright: ignore[reportAttributeAccessIssue]
            self.algorithm = "brute"
        try:
            super()._fit(X, y)  # pyright: ignore[reportAttributeAccessIssue]
        finally:
            self.algorithm = algorithm
        if not issparse(self._fit_X):
            self._fit_X = np.asarray(self._fit_X)  # a tree's are a view that cannot be pickled
        self.n_features_in_ = self._fit_X.shape[1]
        if isinstance(X, BaseEstimator | BallTree | KDTree):
            self.__dict__.pop("feature_names_in_", None)  # of an earlier fit
        self._distance = self._fitted_distance()
        if self._distance is not None:
            self._prepared = self._prepare()
        return self

    def _is_metric_of_a_bank(self) -> bool:
        """As far as parameters tell."""
        if not isinstance(self.metric, str) or self.metric_params:
            return False
        return self.metric in _DISTANCES or (self.metric == "minkowski" and self.p == 2)

    def _fitted_distance(self) -> str | None:
        """A tree answers by the metric that it was grown for, all else by the effective one."""
        if self._tree is not None:
            is_euclidean = any(type(part) is _EUCLIDEAN for part in self._tree.__getstate__())
            return "euclidean" if is_euclidean else None
        if issparse(self._fit_X) or self.effective_metric_params_:
            return None
        metric = self.effective_metric_
        return _DISTANCES.get(metric) if isinstance(metric, str) else None

    def _asked(self, X: Any) -> np.ndarray | None:
        """Queries (Q, C) for the bank, checked; None: scikit-learn answers."""
        if self._distance is None:
            return None
        if X is None:
            return self._fit_X
        queries = validate_data(self, X, reset=False, accept_sparse="csr", order="C")
        return None if issparse(queries) else np.asarray(queries)

    def _rows(self) -> MeasuredRows:
        """Those of ``fit``; prepared again where they were unpickled."""
        if not hasattr(self, "_prepared"):
            self._prepared = self._prepare()
        return self._prepared

    def _prepare(self) -> MeasuredRows:
        assert self._distance is not None
        return self._kind_of_rows(tensor_of(self._fit_X, self._device()), self._distance)

    def _device(self) -> torch.device:
        return require_device("device", "cpu" if self.device is None else self.device)

    def _is_narrow(self, queries: np.ndarray) -> bool:
        """Whether distances are float32, as scikit-learn's are."""
        return queries.dtype == self._fit_X.dtype == np.float32 and self._distance == "cosine"

    def __getstate__(self) -> dict:
        state = dict(super().__getstate__())
        state.pop("_prepared", None)
        return state


def tensor_of(X: np.ndarray, device: torch.device) -> Tensor:
    """X on a device: float32 as it is, all else in float64; shares memory where it can."""
    X = X if X.dtype == np.float32 else np.asarray(X, dtype=np.float64)
    with warnings.catch_warnings():  # of memory that must not be written; nothing is
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(X).to(device)
