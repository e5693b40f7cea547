"""The estimators as estimators: scikit-learn's own checks, its rules, and its company."""

import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
from sklearn import neighbors
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.manifold import TSNE, Isomap, trustworthiness
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn_pairs import NAMES, PREDICTORS, both, found_by, rows

from flashmatch.adapters import sklearn as ours

METRICS = ("euclidean", "sqeuclidean", "cosine")
FAILED_BY_SCIKIT_LEARN = {
    ("check_estimator_sparse_tag", "sqeuclidean"),  # its sparse rows have no such metric
    ("check_estimator_sparse_array", "manhattan"),  # indices of 64 bits
    ("check_estimator_sparse_matrix", "manhattan"),
    ("check_regressors_train", "cosine"),  # within a cosine distance of 1 lies half of all
}


def targets(kind: str, n: int) -> np.ndarray:
    random = np.random.default_rng(1)
    if kind == "words":
        return np.array(["pear", "apple", "fig"])[random.integers(0, 3, n)]
    if kind == "several":
        return random.integers(-1, 3, (n, 2))
    if kind == "column":
        return random.integers(0, 4, n)
    return random.normal(size=(n, 2) if kind == "reals" else n)


@parametrize_with_checks(
    [
        getattr(ours, name)(metric=metric)
        for name in NAMES
        for metric in ("minkowski", "cosine", "sqeuclidean", "manhattan")
    ]
)
def test_scikit_learn_checks(estimator, check) -> None:
    name, metric = type(estimator).__name__, estimator.metric
    if (check.func.__name__, metric) in FAILED_BY_SCIKIT_LEARN and not passes(check, name, metric):
        return
    check(estimator)


def passes(check, name: str, metric: str) -> bool:
    """Whether scikit-learn's own estimator does."""
    try:
        check(getattr(neighbors, name)(metric=metric))
    except AssertionError:
        return False
    return True


@pytest.mark.parametrize("metric", [*METRICS, "l2", "minkowski"])
@pytest.mark.parametrize("fitted", ["float32", "float64", "float16", "int64"])
@pytest.mark.parametrize("asked", ["float32", "float64", "int32"])
def test_dtypes_are_scikit_learns(metric: str, fitted: str, asked: str) -> None:
    one, other = both("NearestNeighbors", n_neighbors=3, metric=metric)
    X, queries = (10 * rows(30, 20)).astype(fitted), (10 * rows(4, 20, 1)).astype(asked)
    found, expected = one.fit(X).kneighbors(queries), other.fit(X).kneighbors(queries)
    assert found[0].dtype == expected[0].dtype
    assert found[1].dtype == expected[1].dtype
    np.testing.assert_array_equal(found[1], expected[1])
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-6 if "32" in fitted else 1e-12)


@pytest.mark.parametrize("metric", METRICS)
def test_a_row_is_not_its_own_neighbor(metric: str) -> None:
    X = rows(60, 5)
    one, other = both("NearestNeighbors", n_neighbors=4, metric=metric)
    found, expected = one.fit(X).kneighbors(), other.fit(X).kneighbors()
    np.testing.assert_array_equal(found[1], expected[1])
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-9)
    np.testing.assert_array_equal(one.kneighbors(return_distance=False), found[1])


@pytest.mark.parametrize("metric", METRICS)
def test_among_duplicates_the_row_itself_is_left_out_or_else_the_first(metric: str) -> None:
    X = np.vstack([np.ones((4, 3)), -np.eye(3)])
    estimator = ours.NearestNeighbors(n_neighbors=2, metric=metric).fit(X)
    distances, indices = estimator.kneighbors()
    # Of 0, 1, 2, the three nearest of each: rows 0 to 2 find themselves there, row 3 does not.
    np.testing.assert_array_equal(indices[:4], [[1, 2], [0, 2], [0, 1], [1, 2]])
    np.testing.assert_array_equal(distances[:4], 0)


@pytest.mark.parametrize("metric", METRICS)
def test_ties_come_lowest_index_first(metric: str) -> None:
    X = np.tile(np.eye(2), (50, 1))  # even rows are equal, and odd ones
    distances, indices = ours.NearestNeighbors(metric=metric).fit(X).kneighbors([[3.0, 0]], 52)
    np.testing.assert_array_equal(indices[0], [*range(0, 100, 2), 1, 3])
    assert len(set(distances[0])) == 2


@pytest.mark.parametrize("weights", ["uniform", "distance", lambda d: 1 / (1 + d**2), None])
@pytest.mark.parametrize("kind", ["words", "several", "column"])
@pytest.mark.parametrize("metric", METRICS)
def test_votes_are_scikit_learns(weights: object, kind: str, metric: str) -> None:
    X, y, queries = rows(80, 6), targets(kind, 80), rows(40, 6, 2)
    one, other = both("KNeighborsClassifier", n_neighbors=7, weights=weights, metric=metric)
    one.fit(X, y), other.fit(X, y)
    np.testing.assert_array_equal(np.hstack([one.classes_]), np.hstack([other.classes_]))
    for chosen in (queries, None):
        np.testing.assert_array_equal(one.predict(chosen), other.predict(chosen))
        np.testing.assert_allclose(
            np.array(one.predict_proba(chosen)), np.array(other.predict_proba(chosen)), rtol=1e-9
        )
    if kind != "several":
        assert one.score(None, y) == other.score(None, y)


@pytest.mark.parametrize("metric", [*METRICS, "l2", "minkowski"])
def test_predictions_go_through_the_search(metric: str) -> None:
    """scikit-learn has a way around it, for uniform votes and some metrics."""
    for name in PREDICTORS:
        estimator = getattr(ours, name)(metric=metric).fit(rows(20, 3), np.arange(20) % 2)
        estimator._prepared = None
        for method in {"predict", "predict_proba"} & set(dir(estimator)):
            with pytest.raises((AttributeError, AssertionError)):
                getattr(estimator, method)(rows(2, 3))


@pytest.mark.parametrize("weights", ["uniform", "distance", lambda d: np.exp(-d)])
@pytest.mark.parametrize("kind", ["real", "reals"])
def test_means_are_scikit_learns(weights: object, kind: str) -> None:
    X, y = rows(80, 6), targets(kind, 80)
    one, other = both("KNeighborsRegressor", n_neighbors=7, weights=weights, metric="cosine")
    one.fit(X, y), other.fit(X, y)
    for chosen in (rows(40, 6, 2), None):
        np.testing.assert_allclose(one.predict(chosen), other.predict(chosen), rtol=1e-9)


@pytest.mark.parametrize("mode", ["distance", "connectivity"])
@pytest.mark.parametrize("metric", METRICS)
def test_graphs_are_scikit_learns(mode: str, metric: str) -> None:
    X, queries = rows(50, 8), rows(20, 8, 1)
    one, other = both("KNeighborsTransformer", n_neighbors=5, mode=mode, metric=metric)
    graphs = (
        (one.fit_transform(X), other.fit_transform(X)),
        (one.transform(queries), other.transform(queries)),
        (one.kneighbors_graph(mode=mode), other.kneighbors_graph(mode=mode)),
    )
    for found, expected in graphs:
        assert type(found) is type(expected)
        assert found.shape == expected.shape
        np.testing.assert_array_equal(found.indptr, expected.indptr)
        np.testing.assert_array_equal(found.indices, expected.indices)
        np.testing.assert_allclose(found.data, expected.data, rtol=1e-9, atol=1e-7)
    assert (graphs[0][0].diagonal() == (0 if mode == "distance" else 1)).all()
    names = one.get_feature_names_out(), other.get_feature_names_out()
    np.testing.assert_array_equal(*names)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("algorithm", ["auto", "brute", "ball_tree", "kd_tree"])
def test_no_tree_is_grown_where_a_bank_searches(name: str, algorithm: str) -> None:
    X, y = rows(40, 3), np.arange(40) % 3
    plain = getattr(ours, name)().fit(X, y)
    estimator = getattr(ours, name)(algorithm=algorithm, leaf_size=3, n_jobs=2, device="cpu")
    estimator.fit(X, y)
    assert estimator.get_params()["algorithm"] == algorithm
    assert estimator._tree is None
    for a, b in zip(found_by(estimator, X), found_by(plain, X), strict=True):
        np.testing.assert_array_equal(a, b)


def test_parameters_are_scikit_learns_and_device() -> None:
    for name in NAMES:
        one, other = getattr(ours, name)(), getattr(neighbors, name)()
        assert one.get_params() == {**other.get_params(), "device": None}
        assert isinstance(one, type(other))


@pytest.mark.parametrize("name", NAMES)
def test_pickles_hold_no_bank(name: str) -> None:
    X, y = rows(500, 16), np.arange(500) % 3
    estimator = getattr(ours, name)(metric="cosine").fit(X, y)
    stored = pickle.dumps(estimator)
    assert len(stored) < X.nbytes + y.nbytes + 2000
    restored = pickle.loads(stored)
    for a, b in zip(found_by(restored, X), found_by(estimator, X), strict=True):
        np.testing.assert_array_equal(a, b)
    copy = clone(estimator)
    assert copy.get_params() == estimator.get_params()
    with pytest.raises(NotFittedError):
        found_by(copy, X)


def test_memory_that_may_not_be_written_is_read_in_silence(tmp_path: Path) -> None:
    np.save(tmp_path / "X.npy", rows(50, 4))
    X = np.load(tmp_path / "X.npy", mmap_mode="r")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        estimator = ours.NearestNeighbors(n_neighbors=1).fit(X)
        assert (estimator.kneighbors(X)[1][:, 0] == np.arange(50)).all()


@pytest.mark.parametrize("layout", ["fortran", "strided", "reversed", "big-endian"])
def test_layouts_do_not_matter(layout: str) -> None:
    X = rows(50, 4)
    laid = {
        "fortran": np.asfortranarray(X),
        "strided": np.repeat(X, 2, axis=0)[::2],
        "reversed": X[::-1].copy()[::-1],
        "big-endian": X.astype(">f8"),
    }[layout]
    expected = ours.NearestNeighbors().fit(X).kneighbors(X)
    for a, b in zip(ours.NearestNeighbors().fit(laid).kneighbors(laid), expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_grid_search_in_a_pipeline_finds_what_scikit_learns_finds() -> None:
    X, y = (part[:400] for part in load_digits(return_X_y=True))
    X = X + 1e-3 * rows(*X.shape)  # without ties
    grid = {"knn__n_neighbors": [1, 3, 9], "knn__weights": ["uniform", "distance"]}
    found = []
    for knn in both("KNeighborsClassifier"):
        pipeline = make_pipeline(StandardScaler(), knn)
        pipeline.steps[-1] = ("knn", knn)
        found.append(GridSearchCV(pipeline, grid, cv=3).fit(X, y))
    one, other = found
    assert one.best_params_ == other.best_params_
    np.testing.assert_array_equal(
        one.cv_results_["mean_test_score"], other.cv_results_["mean_test_score"]
    )
    np.testing.assert_array_equal(one.predict(X), other.predict(X))


def test_embeddings_of_precomputed_graphs() -> None:
    X = load_digits().data[:300]
    X = X + 1e-3 * rows(*X.shape)
    isomap = Isomap(n_neighbors=15, metric="precomputed")
    found, expected = (
        make_pipeline(graph, isomap).fit_transform(X)
        for graph in both("KNeighborsTransformer", n_neighbors=15)
    )
    np.testing.assert_allclose(np.abs(found), np.abs(expected), rtol=1e-6, atol=1e-6)
    tsne = TSNE(metric="precomputed", perplexity=10, init="random", random_state=0, max_iter=500)
    graph = ours.KNeighborsTransformer(n_neighbors=31)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of graphs that are not sorted
        embedding = make_pipeline(graph, tsne).fit_transform(X)
    assert trustworthiness(X, embedding) > 0.97


def test_output_containers_can_be_set() -> None:
    X, y = rows(30, 3), np.arange(30) % 2
    graph = ours.KNeighborsTransformer().set_output(transform="default")
    assert graph.fit_transform(X).shape == (30, 30)
    pytest.importorskip("pandas", reason="not a dependency")
    pipeline = make_pipeline(StandardScaler(), ours.KNeighborsClassifier())
    pipeline.set_output(transform="pandas").fit(X, y)
    assert list(pipeline[-1].feature_names_in_) == ["x0", "x1", "x2"]
    with pytest.raises(ValueError, match="sparse"):
        ours.KNeighborsTransformer().set_output(transform="pandas").fit_transform(X)
