"""What is not searched here: scikit-learn searches it, with the same result."""

import numpy as np
import pytest
from scipy.sparse import coo_array, csr_array
from sklearn import neighbors
from sklearn.datasets import load_iris
from sklearn.metrics import DistanceMetric
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import LocalOutlierFactor
from sklearn.pipeline import make_pipeline
from sklearn.utils import get_tags
from sklearn_pairs import NAMES, found_by, rows

from flashmatch.adapters import sklearn as ours


def cubes(a: np.ndarray, b: np.ndarray) -> float:
    return float((np.abs(a - b) ** 3).sum())


OTHERS = (
    {"metric": "manhattan"},
    {"metric": "chebyshev", "algorithm": "brute"},
    {"metric": "canberra"},
    {"metric": cubes},
    {"metric": DistanceMetric.get_metric("manhattan"), "algorithm": "ball_tree"},
    {"metric": "nan_euclidean"},
    {"metric": "seuclidean", "metric_params": {"V": np.array([1.0, 2, 3])}, "algorithm": "brute"},
    {"metric": "minkowski", "metric_params": {"w": np.array([1.0, 2, 3])}},
    {"p": 1},
    {"p": 3},
    {"p": 1.5, "algorithm": "ball_tree"},
    {"p": 0.5, "algorithm": "brute"},
    {"p": np.inf},
)


@pytest.mark.filterwarnings("ignore:Mind that for 0 < p < 1")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("options", OTHERS, ids=range(len(OTHERS)))
def test_other_metrics_are_scikit_learns(name: str, options: dict) -> None:
    X, y, queries = np.abs(rows(40, 3)), np.arange(40) % 3, np.abs(rows(7, 3, 1))
    one, other = (getattr(library, name)(**options) for library in (ours, neighbors))
    if name == "RadiusNeighborsClassifier":
        one.outlier_label = other.outlier_label = 0
    one.fit(X, y), other.fit(X, y)
    for a, b in zip(found_by(one, queries), found_by(other, queries), strict=True):
        np.testing.assert_array_equal(a, b)
    if hasattr(one, "predict"):
        np.testing.assert_array_equal(one.predict(queries), other.predict(queries))
    assert type(one._tree) is type(other._tree)
    assert get_tags(one) == get_tags(other)


def test_metric_params_that_say_euclidean_are_searched_here() -> None:
    X = rows(40, 3)
    with pytest.warns(SyntaxWarning):
        estimator = ours.NearestNeighbors(metric_params={"p": 2}, p=1).fit(X)
    plain = ours.NearestNeighbors().fit(X)
    np.testing.assert_array_equal(estimator.kneighbors()[0], plain.kneighbors()[0])
    assert estimator._distance == "euclidean"


@pytest.mark.parametrize("metric", ["nan_euclidean", "minkowski"])
def test_missing_values_are_for_the_metric_that_takes_them(metric: str) -> None:
    X = rows(40, 3)
    X[3, 1] = np.nan
    one, other = (lib.NearestNeighbors(metric=metric) for lib in (ours, neighbors))
    if metric == "minkowski":
        for estimator in (one, other):
            with pytest.raises(ValueError, match="NaN"):
                estimator.fit(X)
        return
    for a, b in zip(one.fit(X).kneighbors(X), other.fit(X).kneighbors(X), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("metric", ["minkowski", "cosine", "manhattan"])
@pytest.mark.parametrize("container", [csr_array, coo_array])
def test_sparse_rows_and_queries_are_scikit_learns(name: str, metric: str, container) -> None:
    dense, y = np.maximum(rows(40, 5), 0), np.arange(40) % 3
    X, queries = container(dense), container(dense[:9])
    one, other = (getattr(lib, name)(metric=metric) for lib in (ours, neighbors))
    if metric != "manhattan":  # of which ours grows a tree as well
        other.set_params(algorithm="brute")
    for fitted in (X, dense) if metric != "manhattan" else (X,):
        one.fit(fitted, y), other.fit(fitted, y)
        for a, b in zip(found_by(one, queries), found_by(other, queries), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)
    one.fit(X, y), other.fit(X, y)
    for a, b in zip(found_by(one, dense), found_by(other, dense), strict=True):
        np.testing.assert_array_equal(a, b)


def test_graphs_are_taken_for_precomputed_distances() -> None:
    X, y = load_iris(return_X_y=True)
    X = X + 1e-3 * rows(*X.shape)
    scores = [
        make_pipeline(
            lib.KNeighborsTransformer(n_neighbors=9),
            lib.KNeighborsClassifier(n_neighbors=5, metric="precomputed"),
        )
        .fit(X, y)
        .score(X, y)
        for lib in (ours, neighbors)
    ]
    assert scores[0] == scores[1] > 0.9
    outliers = [
        make_pipeline(
            lib.KNeighborsTransformer(n_neighbors=20),
            LocalOutlierFactor(n_neighbors=20, metric="precomputed"),
        ).fit_predict(X)
        for lib in (ours, neighbors)
    ]
    np.testing.assert_array_equal(*outliers)
    assert get_tags(ours.KNeighborsClassifier(metric="precomputed")).input_tags.pairwise
    graph = ours.RadiusNeighborsTransformer(radius=0.7).fit_transform(X)
    found = ours.RadiusNeighborsRegressor(radius=0.5, metric="precomputed").fit(graph, y)
    expected = neighbors.RadiusNeighborsRegressor(radius=0.5, algorithm="brute").fit(X, y)
    np.testing.assert_allclose(found.predict(graph), expected.predict(X))


@pytest.mark.parametrize(
    "grid",
    [
        {"p": [1, 2, 3]},
        {"metric": ["euclidean", "manhattan", "cosine"]},
        {"algorithm": ["brute", "kd_tree", "ball_tree"], "metric": ["minkowski", "chebyshev"]},
        {"weights": ["uniform", "distance"], "p": [1, 2], "n_neighbors": [1, 7]},
    ],
    ids=str,
)
def test_grids_score_as_scikit_learns(grid: dict) -> None:
    X, y = load_iris(return_X_y=True)
    X = X + 1e-3 * rows(*X.shape)  # without ties
    scores = [
        GridSearchCV(lib.KNeighborsClassifier(), grid, error_score="raise").fit(X, y).cv_results_
        for lib in (ours, neighbors)
    ]
    np.testing.assert_array_equal(*(each["mean_test_score"] for each in scores))


def test_a_grid_of_precomputed_distances_is_split_on_both_sides() -> None:
    X, y = load_iris(return_X_y=True)
    D = np.sqrt(((X[:, None] - X) ** 2).sum(-1))
    scores = [
        GridSearchCV(lib.KNeighborsClassifier(metric="precomputed"), {"n_neighbors": [3, 5]})
        .fit(D, y)
        .cv_results_["mean_test_score"]
        for lib in (ours, neighbors)
    ]
    np.testing.assert_array_equal(*scores)
