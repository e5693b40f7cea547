"""What was fitted stays fitted, whatever parameters are set to; and fit takes what theirs takes."""

import copy
import pickle

import numpy as np
import pytest
from sklearn import neighbors
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn_pairs import NAMES, OF_K, both, found_by, rows

from flashmatch.adapters import sklearn as ours

METRICS = ("minkowski", "cosine", "sqeuclidean", "manhattan")
CHANGES = (
    {"metric": "manhattan"},
    {"metric": "cosine"},
    {"metric": "l2", "algorithm": "ball_tree"},
    {"p": 1},
    {"metric_params": {"p": 3}},
    {"device": "gpu"},
    {"leaf_size": 1, "n_jobs": 2},
)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_parameters_set_after_fit_change_no_answer(name: str, metric: str, change: dict) -> None:
    X, y, queries = rows(40, 4), np.arange(40) % 3, rows(7, 4, 1)
    estimator = getattr(ours, name)(metric=metric, algorithm="brute").fit(X, y)
    before = found_by(estimator, queries)
    attributes = estimator.effective_metric_, estimator.effective_metric_params_
    estimator.set_params(**change)
    for a, b in zip(found_by(estimator, queries), before, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (estimator.effective_metric_, estimator.effective_metric_params_) == attributes
    if "device" not in change:
        for twin in (pickle.loads(pickle.dumps(estimator)), copy.deepcopy(estimator)):
            for a, b in zip(found_by(twin, queries), before, strict=True):
                np.testing.assert_array_equal(a, b)
            assert twin.effective_metric_ == attributes[0]


@pytest.mark.parametrize("weights", ["uniform", "distance"])
def test_votes_stay_fitted_too(weights: str) -> None:
    X, y, queries = rows(60, 4), np.arange(60) % 3, rows(30, 4, 1)
    estimator = ours.KNeighborsClassifier(weights=weights).fit(X, y)
    before = estimator.predict(queries), estimator.predict_proba(queries)
    for metric in ("cosine", "manhattan", "l2"):
        estimator.set_params(metric=metric)
        np.testing.assert_array_equal(estimator.predict(queries), before[0])
        np.testing.assert_array_equal(estimator.predict_proba(queries), before[1])


def test_counts_and_radii_are_read_when_asked() -> None:
    estimator = ours.NearestNeighbors(n_neighbors=2, radius=0.1).fit(rows(40, 4))
    estimator.set_params(n_neighbors=7, radius=np.inf)
    assert estimator.kneighbors()[1].shape == (40, 7)
    assert {len(of_row) for of_row in estimator.radius_neighbors()[1]} == {39}


@pytest.mark.parametrize("metric", METRICS[:3])
def test_attributes_are_scikit_learns(metric: str) -> None:
    X, y = rows(40, 4), np.array(list("abca")).repeat(10)
    for name in NAMES:
        one, other = both(name, metric=metric)
        one.fit(X, y), other.fit(X, y)
        mine, theirs = (
            {key: value for key, value in vars(e).items() if key.endswith("_")}
            for e in (one, other)
        )
        assert mine.keys() == theirs.keys()
        for key, value in theirs.items():
            np.testing.assert_array_equal(mine[key], value)
        assert one._fit_method == other._fit_method


@pytest.mark.parametrize("name", OF_K)
@pytest.mark.parametrize(
    "kind", ["ours", "theirs", "brute", "KDTree", "BallTree", "manhattan tree"]
)
def test_fit_takes_what_is_fitted(name: str, kind: str) -> None:
    X, y, queries = rows(40, 4), np.arange(40) % 3, rows(7, 4, 1)
    prepared = {
        "ours": lambda: ours.NearestNeighbors().fit(X),
        "theirs": lambda: neighbors.NearestNeighbors().fit(X),
        "brute": lambda: neighbors.NearestNeighbors(algorithm="brute").fit(X),
        "KDTree": lambda: neighbors.KDTree(X),
        "BallTree": lambda: neighbors.BallTree(X),
        "manhattan tree": lambda: neighbors.BallTree(X, metric="manhattan"),
    }[kind]()
    one, other = getattr(ours, name)(), getattr(neighbors, name)()
    one.fit(rows(9, 7), np.arange(9) % 2)  # nothing of which may be left
    one.fit(prepared, y), other.fit(prepared, y)
    for asked in (queries, None):
        mine, theirs = one.kneighbors(asked), other.kneighbors(asked)
        np.testing.assert_array_equal(mine[1], theirs[1])
        np.testing.assert_allclose(mine[0], theirs[0], rtol=1e-12)
        if hasattr(one, "predict"):
            np.testing.assert_allclose(one.predict(asked), other.predict(asked))
    twin = pickle.loads(pickle.dumps(one))
    np.testing.assert_array_equal(twin.kneighbors(queries)[0], one.kneighbors(queries)[0])
    with pytest.raises(ValueError, match="4 features"):
        one.kneighbors(rows(2, 5))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("metric", ["minkowski", "cosine", "manhattan"])
def test_theirs_take_ours(name: str, metric: str) -> None:
    X, y, queries = rows(40, 4), np.arange(40) % 3, rows(7, 4, 1)
    given = getattr(ours, name)(metric=metric).fit(X, y)
    options = {"radius": 9.0} if name.startswith("Radius") else {}
    theirs = getattr(neighbors, name)(metric=metric, **options)
    plain = clone(theirs).fit(X, y)
    for a, b in zip(found_by(theirs.fit(given, y), queries), found_by(plain, queries), strict=True):
        np.testing.assert_allclose(np.sort(a), np.sort(b), rtol=1e-9)
    if hasattr(theirs, "predict"):
        np.testing.assert_allclose(theirs.predict(queries), plain.predict(queries))


def test_what_is_not_fitted_cannot_be_given() -> None:
    for library in (ours, neighbors):
        with pytest.raises(NotFittedError):
            ours.NearestNeighbors().fit(library.NearestNeighbors())


def test_a_failed_fit_leaves_the_former() -> None:
    estimator = ours.NearestNeighbors().fit(rows(40, 4))
    before = estimator.kneighbors()
    with pytest.raises(ValueError, match="NaN"):
        estimator.fit(rows(40, 5) * np.nan)
    np.testing.assert_array_equal(estimator.kneighbors()[0], before[0])
