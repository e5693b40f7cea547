"""All rows within a radius: those that kneighbors reports at or below it, exactly."""

import warnings
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn import neighbors
from sklearn.cluster import DBSCAN
from sklearn.datasets import load_iris
from sklearn.pipeline import make_pipeline
from sklearn_oracle import METRICS, Problem, problems, reference, slack
from sklearn_pairs import OF_RADIUS, both, rows

from flashmatch.adapters import _within
from flashmatch.adapters import sklearn as ours
from flashmatch.adapters._measured import MeasuredRows


def assert_within(estimator, queries: np.ndarray | None, radius: object) -> list[int]:
    """What kneighbors of all rows says, and NumPy's <=; returns how many each query has."""
    count = estimator.n_samples_fit_ - (queries is None)
    by_rank = estimator.kneighbors(queries, count)
    order = by_rank[1].argsort(axis=1)
    distances, indices = (np.take_along_axis(a, order, axis=1) for a in by_rank)
    inside = distances <= (radius if np.ndim(radius) == 0 else np.asarray(radius)[:, None])
    found = estimator.radius_neighbors(queries, radius)
    alone = estimator.radius_neighbors(queries, radius, return_distance=False)
    ordered = estimator.radius_neighbors(queries, radius, sort_results=True)
    for i, of_row in enumerate(inside):
        assert found[0][i].dtype == distances.dtype
        np.testing.assert_array_equal(found[0][i], distances[i, of_row])
        for got in (found[1][i], alone[i]):
            assert got.dtype == np.int64
            np.testing.assert_array_equal(got, indices[i, of_row])
        ranked = of_row[order[i].argsort()]
        np.testing.assert_array_equal(ordered[0][i], by_rank[0][i, ranked])
        np.testing.assert_array_equal(ordered[1][i], by_rank[1][i, ranked])
    return [len(of_query) for of_query in found[1]]


@given(
    data=st.data(), problem=problems(), blocks=st.sampled_from([(1, 1), (7, 20), (4096, 1 << 21)])
)
def test_within_is_what_kneighbors_reports(data: st.DataObject, problem: Problem, blocks) -> None:
    estimator = ours.NearestNeighbors(metric=problem.metric).fit(problem.X)
    asked = data.draw(st.sampled_from([problem.queries, problem.queries, None]))
    assume(len(problem.X) > 1 or asked is not None)
    known = estimator.kneighbors(asked, len(problem.X) - (asked is None))[0]
    just = st.sampled_from(known.ravel().tolist())
    one = st.one_of(
        just,
        just.map(lambda radius: np.nextafter(radius, -np.inf)).filter(lambda radius: radius >= 0),
        just.map(lambda radius: np.nextafter(radius, np.inf)),
        st.sampled_from([0, 0.0, 1, np.inf]),
    )
    n_queries = len(problem.X if asked is None else asked)
    each = st.lists(one, min_size=n_queries, max_size=n_queries)
    radius = data.draw(st.one_of(one, each.map(np.array)))
    with mock.patch.multiple(_within, _ROWS=blocks[0], _PRODUCTS=blocks[1]):
        assert_within(estimator, asked, radius)


@given(problem=problems(), quantile=st.floats(0, 1))
def test_within_as_in_long_double(problem: Problem, quantile: float) -> None:
    """No row is in or out by more than fp64 can be off."""
    truth = reference(problem)
    radius = float(np.quantile(truth.astype(float), quantile))
    estimator = ours.NearestNeighbors(metric=problem.metric, radius=radius).fit(problem.X)
    found = np.zeros(truth.shape, dtype=bool)
    for row, of_row in zip(found, estimator.radius_neighbors(problem.queries)[1], strict=True):
        row[of_row] = True
    off = slack(problem, np.maximum(truth, radius))
    narrow = problem.metric == "cosine" and problem.X.dtype == problem.queries.dtype == np.float32
    off += 2.0**-23 * radius if narrow else 0  # of the radius, too, which NumPy rounds
    assert found[truth < radius - off].all()
    assert not found[truth > radius + off].any()


@pytest.mark.parametrize("metric", METRICS)
def test_of_many_rows(metric: str) -> None:
    """More than one block of rows, and of queries."""
    X, queries = rows(9000, 12, dtype="float32"), rows(700, 12, 1, dtype="float32")
    estimator = ours.NearestNeighbors(metric=metric).fit(X)
    radius = float(np.median(estimator.kneighbors(queries, 40)[0][:, -1]))
    assert max(assert_within(estimator, queries, radius)) > 50


@pytest.mark.parametrize("metric", METRICS[:2])
@pytest.mark.parametrize("of_rows", [1e-200, 1e-160, 1e-24, 1.0, 1e20, 1e150])
@pytest.mark.parametrize("of_queries", [1e-300, 1e-162, 1.0, 1e150])
def test_rows_and_queries_of_any_size(metric: str, of_rows: float, of_queries: float) -> None:
    """Squares may be below fp64's range, or beyond it."""
    X, queries = rows(50, 3) * of_rows, rows(6, 3, 1) * of_queries
    queries[:2] = X[:2]
    X[40:] = X[:1] * (1 + 2.0**-40 * rows(10, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        estimator = ours.NearestNeighbors(metric=metric).fit(X)
        distances = estimator.kneighbors(queries, 50)[0]
        for radius in (0, *np.quantile(distances, [0.01, 0.1, 0.5, 1], method="nearest")):
            assert_within(estimator, queries, radius)


def test_squares_that_round_to_nothing_on_one_side_only() -> None:
    """1.6^2 is one step of fp64's least and 1.5^2 none, in units of 1e-324; their difference is."""
    X = np.array([[1.6e-162], [1.0], [2.0], [3.0]])
    estimator = ours.NearestNeighbors().fit(X)
    assert assert_within(estimator, np.array([[1.5e-162]]), 0) == [1]


@pytest.mark.parametrize("metric", METRICS)
def test_a_pair_alone_has_the_distance_that_it_has_among_others(metric: str) -> None:
    """torch shares a single sum among threads, in another order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for seed in range(4):
            vectors = torch.from_numpy(rows(6, 200_000, seed))
            measured, three = MeasuredRows(vectors[3:], metric), torch.arange(3)
            together = measured.to_pairs(vectors[:3], three, three)
            for one in three.split(1):
                assert measured.to_pairs(vectors[:3], one, one) == together[one]
    finally:
        torch.set_num_threads(threads)


def test_iris_at_a_radius_that_its_rows_have() -> None:
    X = load_iris().data
    assert sum(assert_within(ours.NearestNeighbors().fit(X), X, 0.5)) == 1616
    assert sum(assert_within(ours.NearestNeighbors().fit(X), None, 0.5)) == 1616 - 150


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", OF_RADIUS)
def test_away_from_the_boundary_as_scikit_learn(metric: str, name: str) -> None:
    X, queries, y = rows(80, 4), rows(30, 4, 1), np.arange(80) % 3
    one, other = both(name, radius=0.7, metric=metric)
    one.fit(X, y), other.fit(X, y)
    for asked in (queries, None):
        found, expected = one.radius_neighbors(asked), other.radius_neighbors(asked)
        for mine, theirs in zip(found, expected, strict=True):
            assert mine.dtype == theirs.dtype == object
            assert mine.shape == theirs.shape
            for a, b in zip(mine, theirs, strict=True):
                assert a.dtype == b.dtype
                np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
        for mode in ("connectivity", "distance"):
            graphs = [e.radius_neighbors_graph(asked, 0.9, mode) for e in (one, other)]
            assert type(graphs[0]) is type(graphs[1])
            np.testing.assert_allclose(graphs[0].toarray(), graphs[1].toarray(), atol=1e-12)


@pytest.mark.parametrize("weights", ["uniform", "distance", lambda each: 1 / (1 + each)])
@pytest.mark.parametrize("metric", METRICS)
def test_votes_and_means_are_scikit_learns(weights: object, metric: str) -> None:
    X, queries, y = rows(80, 4), rows(40, 4, 1), np.arange(80) % 3
    options = {"radius": 0.9, "weights": weights, "metric": metric}
    one, other = both("RadiusNeighborsClassifier", **options, outlier_label="most_frequent")
    one.fit(X, y), other.fit(X, y)
    np.testing.assert_array_equal(one.predict(queries), other.predict(queries))
    np.testing.assert_allclose(one.predict_proba(queries), other.predict_proba(queries), rtol=1e-9)
    one, other = both("RadiusNeighborsRegressor", **options)
    near = queries[[len(each) > 0 for each in other.fit(X, y).radius_neighbors(queries)[1]]]
    np.testing.assert_allclose(one.fit(X, y).predict(near), other.predict(near), rtol=1e-9)


def test_a_graph_within_a_radius_clusters() -> None:
    X = load_iris().data + 1e-3 * rows(150, 4)
    found, expected = (
        make_pipeline(graph, DBSCAN(eps=0.5, metric="precomputed")).fit_predict(X)
        for graph in both("RadiusNeighborsTransformer", radius=0.6)
    )
    np.testing.assert_array_equal(found, expected)
    assert set(found) == {-1, 0, 1}


def test_a_radius_for_each_query_as_of_scikit_learns_trees() -> None:
    X, queries = rows(60, 3), rows(9, 3, 1)
    radius = np.linspace(0, 3, 9)
    one, other = ours.NearestNeighbors().fit(X), neighbors.NearestNeighbors().fit(X)
    expected = other.radius_neighbors(queries, radius, sort_results=True)
    for given_as in (radius, radius.tolist(), torch.from_numpy(radius)):
        found = one.radius_neighbors(queries, given_as, sort_results=True)
        for mine, theirs in zip(found[1], expected[1], strict=True):
            np.testing.assert_array_equal(mine, theirs)
    graphs = [e.radius_neighbors_graph(queries, radius) for e in (one, other)]
    np.testing.assert_array_equal(graphs[0].toarray(), graphs[1].toarray())
    one.set_params(radius=radius)  # read when asked, as theirs is
    np.testing.assert_array_equal(
        one.radius_neighbors(queries)[1][5], found[1][5][found[1][5].argsort()]
    )


def test_float32_distances_compare_with_a_radius_as_numpy_compares() -> None:
    """0.1 is less than the next float32, which is what a number of Python is compared as."""
    X = rows(40, 5, dtype="float32")
    estimator = ours.NearestNeighbors(metric="cosine").fit(X)
    distances = estimator.kneighbors(X, 40)[0]
    assert distances.dtype == np.float32
    for distance in np.unique(distances)[::100]:
        short = np.float64(distance) * (1 - 1e-12)
        for radius in (float(short), short, np.full(40, short), np.float32(short)):
            assert_within(estimator, X, radius)


@pytest.mark.parametrize(
    ("radius", "error", "named"),
    [
        (np.nan, ValueError, "radius must be at least 0; got nan"),
        (-1, ValueError, "radius must be at least 0; got -1"),
        ([1.0, np.nan], ValueError, "radius .* nan"),
        (np.ones(3), ValueError, r"radius .* shape \(2,\).* got shape \(3,\)"),
        (np.ones((2, 1)), ValueError, r"radius .* got shape \(2, 1\)"),
        ("1", TypeError, "radius .* got str"),
        (True, TypeError, "radius .* got bool"),
        (1j, TypeError, "radius .* got complex"),
    ],
)
def test_what_is_no_radius(radius: object, error: type, named: str) -> None:
    estimator = ours.NearestNeighbors().fit(rows(9, 3))
    with pytest.raises(error, match=named):
        estimator.radius_neighbors(rows(2, 3), radius)
    with pytest.raises(ValueError, match="return_distance must be True"):
        estimator.radius_neighbors(rows(2, 3), 1, return_distance=False, sort_results=True)


def test_no_more_products_than_a_block_are_held() -> None:
    """Of 4,000 x 20,000 pairs, which would be 640 MB."""
    X, queries = rows(20_000, 3), rows(4000, 3, 1)
    estimator = ours.NearestNeighbors().fit(X)
    with mock.patch.object(torch, "addmm", wraps=torch.addmm) as products:
        found = estimator.radius_neighbors(queries, 0.1)
    assert sum(map(len, found[1])) > 1000
    sizes = [call.args[1].shape[0] * call.args[2].shape[1] for call in products.call_args_list]
    assert max(sizes) <= _within._PRODUCTS
    assert sum(sizes) == 4000 * 20_000
