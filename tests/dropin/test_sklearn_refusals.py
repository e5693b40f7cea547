"""What is refused, and how it is named: as scikit-learn does, or better."""

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError
from sklearn_pairs import NAMES, rows

from flashmatch.adapters import sklearn as ours


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"metric": "chebychev"}, "metric"),
        ({"p": 0}, "'p' parameter"),
        ({"algorithm": "hnsw"}, "algorithm"),
        ({"algorithm": "kd_tree", "metric": "cosine"}, "cosine"),
        ({"device": "gpu"}, "device must be .* that torch has here.*'cpu'.* got 'gpu'"),
        ({"device": "cuda:99"}, "device must be .*'cpu'.* got 'cuda:99'"),
        ({"device": "meta"}, "device must be .* got 'meta'"),
    ],
)
def test_refused_when_fitted(name: str, parameters: dict, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        getattr(ours, name)(**parameters).fit(rows(9, 3), np.arange(9) % 2)


@pytest.mark.parametrize("metric", ["minkowski", "cosine", "manhattan"])
def test_refused_when_asked(metric: str) -> None:
    estimator = ours.NearestNeighbors(n_neighbors=4, metric=metric)
    with pytest.raises(NotFittedError):
        estimator.kneighbors(rows(2, 3))
    estimator.fit(rows(6, 3))
    for X, k, error, named in (
        (rows(2, 3), 7, ValueError, "n_neighbors <= n_samples_fit.* = 7, n_samples_fit = 6"),
        (None, 6, ValueError, "n_neighbors < n_samples_fit.* = 6, n_samples_fit = 6"),
        (rows(2, 3), 0, ValueError, "n_neighbors > 0. Got 0"),
        (rows(2, 3), 2.0, TypeError, "n_neighbors .* float"),
        (rows(2, 3), True, TypeError, "n_neighbors .* bool"),
        (rows(2, 3), np.True_, TypeError, "n_neighbors .* bool"),
        (rows(2, 3), torch.tensor(True), TypeError, "n_neighbors .* Tensor"),
        (rows(2, 3), "3", TypeError, "n_neighbors .* str"),
        (rows(2, 4), 2, ValueError, "4 features"),
        (rows(2, 3) * np.nan, 2, ValueError, "NaN"),
        (rows(2, 3)[0], 2, ValueError, "2D"),
    ):
        with pytest.raises(error, match=named):
            estimator.kneighbors(X, k)
    assert estimator.kneighbors(rows(2, 3), 6)[1].shape == (2, 6)


@pytest.mark.parametrize("k", [np.int64(5), np.uint8(5), np.array(5), torch.tensor(5)])
@pytest.mark.parametrize("metric", ["minkowski", "manhattan"])
def test_whatever_is_an_integer_counts_neighbors(k: object, metric: str) -> None:
    estimator = ours.NearestNeighbors(metric=metric).fit(rows(6, 3))
    assert estimator.kneighbors(None, k)[1].shape == (6, 5)
    assert estimator.kneighbors_graph(rows(2, 3), int(k)).nnz == 10
    estimator.set_params(n_neighbors=k)
    assert estimator.kneighbors(None)[1].shape == (6, 5)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("side", ["rows", "queries"])
def test_rows_beyond_float64_are_refused_as_x(metric: str, side: str) -> None:
    fine, beyond = rows(5, 2), np.array([[1, 1], [1e300, 1e-300]])
    estimator = ours.NearestNeighbors(n_neighbors=1, metric=metric)
    call = estimator.fit if side == "rows" else estimator.fit(fine).kneighbors
    with pytest.raises(ValueError, match=r"X must be finite, with squares .* row 1"):
        call(beyond)
