"""Distances and their order, against scikit-learn's brute force and a search in long double."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, example, given
from sklearn import neighbors
from sklearn_oracle import METRICS, Problem, assert_nearest, problems, reference, slack

from flashmatch import PrototypeBank
from flashmatch.adapters import sklearn as ours
from flashmatch.adapters._nearest import SPARE


def kneighbors(estimator: type, problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    options = {"algorithm": "brute", "metric": problem.metric, "n_neighbors": problem.k}
    return estimator(**options).fit(problem.X).kneighbors(problem.queries)


@given(problem=problems())
@example(Problem(np.zeros((3, 2)), np.zeros((2, 2)), 2, "cosine"))
@example(Problem(np.full((3, 1), 9e-9), np.array([[9e-9], [1]]), 2, "cosine"))
@example(Problem(np.zeros((40, 1)), np.ones((2, 1)), 3, "euclidean"))
def test_nearest_as_in_long_double(problem: Problem) -> None:
    assert_nearest(problem, *kneighbors(ours.NearestNeighbors, problem))


@given(problem=problems())
def test_as_scikit_learn_up_to_its_own_error(problem: Problem) -> None:
    """The j-th distances differ by no more than scikit-learn's differ from the truth."""
    found, theirs = (
        kneighbors(estimator, problem)
        for estimator in (ours.NearestNeighbors, neighbors.NearestNeighbors)
    )
    assert found[0].dtype == theirs[0].dtype
    truth = reference(problem)
    norms = np.linalg.norm(np.concatenate([problem.X, problem.queries]).astype(float), axis=1)
    # scikit-learn divides by 1 where a norm is short.
    assume(problem.metric != "cosine" or not ((norms > 0) & (norms < 1e-5)).any())
    everything = kneighbors(neighbors.NearestNeighbors, replace(problem, k=len(problem.X)))
    off = np.abs(everything[0] - np.take_along_axis(truth, everything[1], axis=1))
    allowed = off.max() + slack(problem, truth).max()
    ordered = np.sort(truth, axis=1)
    assert (np.abs(found[0] - theirs[0]) <= 2 * allowed).all()
    gaps = np.diff(ordered, axis=1, append=np.inf)[:, : problem.k]
    before = np.diff(ordered, axis=1, prepend=-np.inf)[:, : problem.k]
    clear = (gaps > 4 * allowed) & (before > 4 * allowed)
    np.testing.assert_array_equal(found[1][clear], theirs[1][clear])


@pytest.mark.parametrize("metric", METRICS)
def test_no_error_is_larger_than_scikit_learns(metric: str) -> None:
    random = np.random.default_rng(0)
    problem = Problem(random.normal(3, 1, (300, 40)), random.normal(3, 1, (30, 40)), 9, metric)
    errors = [
        np.abs(distances - np.sort(reference(problem), axis=1)[:, :9]).max()
        for distances, _ in (
            kneighbors(estimator, problem)
            for estimator in (ours.NearestNeighbors, neighbors.NearestNeighbors)
        )
    ]
    assert errors[0] <= errors[1]


@pytest.mark.parametrize("metric", METRICS)
def test_enough_rows_for_codes(metric: str) -> None:
    """Banks search codes from 2 million coordinates on, where the processor multiplies them."""
    random = np.random.default_rng(0)
    X = random.normal(size=(20000, 128)).astype(np.float32)
    problem = Problem(X, X[:20] + 1, 7, metric)
    assert_nearest(problem, *kneighbors(ours.NearestNeighbors, problem))


@pytest.mark.parametrize("scale", [1.0, 1e20, 1e36, 1e120, 1e-15, 1e-24, 1e-36, 1e-120, 1e-300])
@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_search_is_enough_in_any_unit(
    dtype: type, metric: str, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    X, queries = (random.normal(size=(n, 16)) for n in (1000, 20))
    if dtype == np.float32 and not 1e-37 < scale < 1e37:
        pytest.skip("beyond the dtype")
    problem = Problem((X * scale).astype(dtype), (queries * scale).astype(dtype), 3, metric)
    searches, topk = [], PrototypeBank.topk

    def counted(bank: PrototypeBank, *arguments: object) -> object:
        searches.append(len(bank))
        return topk(bank, *arguments)

    monkeypatch.setattr(PrototypeBank, "topk", counted)
    distances, indices = kneighbors(ours.NearestNeighbors, problem)
    nearest = np.argsort(reference(problem), axis=1)[:, :3]
    if metric == "euclidean" or 1e-150 < scale < 1e150:  # squares are numbers
        assert searches == [1000]
        assert_nearest(problem, distances, indices)
        np.testing.assert_array_equal(indices, nearest)


def test_queries_of_another_size_than_the_rows() -> None:
    random = np.random.default_rng(0)
    for of_rows, of_queries in ((1e-200, 1.0), (1e-24, 1e20), (1e20, 1e-300), (1e20, 1.0)):
        X, queries = random.normal(size=(200, 5)) * of_rows, random.normal(size=(6, 5)) * of_queries
        problem = Problem(X, queries, 4, "euclidean")
        assert_nearest(problem, *kneighbors(ours.NearestNeighbors, problem))


def shuffled_circle(angles: np.ndarray) -> np.ndarray:
    """Unit vectors at these angles from (1, 0), in an order of their own."""
    angles = np.random.default_rng(0).permutation(angles)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("count", [40, 3000])
def test_more_near_ties_in_fp32_than_spare_rows(metric: str, count: int) -> None:
    """1 - cos from 5e-13 to 5e-9; fp32 has nothing between 1 and 1 - 6e-8."""
    assert count > 4 * SPARE
    X = shuffled_circle(np.linspace(1e-6, 1e-4, count))
    if metric != "cosine":  # distances from 1 to 1 + 1e-8
        X = np.arctan2(X[:, 1], X[:, 0])[:, None] * 1e-4 + 1
    origin = np.array([[1.0, 0]] if metric == "cosine" else [[0.0]])
    problem = Problem(X, origin, 3, metric)
    distances, indices = kneighbors(ours.NearestNeighbors, problem)
    assert_nearest(problem, distances, indices)
    np.testing.assert_array_equal(indices[0], np.argsort(reference(problem)[0])[:3])


@pytest.mark.parametrize("metric", METRICS)
def test_more_ties_than_spare_rows(metric: str) -> None:
    """All but one row are equal; distances are not 0."""
    X = np.ones((2000, 3))
    X[1234] = [1, 1, 0.5]
    problem = Problem(X, np.array([[1.0, 1, 0], [0, 0, 1]]), 4, metric)
    distances, indices = kneighbors(ours.NearestNeighbors, problem)
    assert_nearest(problem, distances, indices)
    np.testing.assert_array_equal(indices, [[1234, 0, 1, 2], [0, 1, 2, 3]])


def test_orthogonal_rows_tie() -> None:
    """Their distance is 1 to the last bit, so that they come by index."""
    X = np.random.default_rng(0).normal(size=(60, 9))
    X[:, 0] = 0
    distances, indices = kneighbors(
        ours.NearestNeighbors, Problem(X, np.eye(9)[:1] * 3, 50, "cosine")
    )
    np.testing.assert_array_equal(distances, 1)
    np.testing.assert_array_equal(indices[0], np.arange(50))


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean"])
def test_squares_beyond_fp32(metric: str) -> None:
    """Scores are -inf for all then."""
    X = np.random.default_rng(0).normal(size=(200, 4)) * 1e30
    problem = Problem(X, X[:3] * 2, 5, metric)
    assert_nearest(problem, *kneighbors(ours.NearestNeighbors, problem))


@pytest.mark.parametrize("wrong", ["distance", "order", "left out", "twice"])
def test_the_assertion_sees_what_is_wrong(wrong: str) -> None:
    random = np.random.default_rng(0)
    problem = Problem(random.normal(size=(30, 4)), random.normal(size=(5, 4)), 6, "euclidean")
    distances, indices = kneighbors(ours.NearestNeighbors, problem)
    assert_nearest(problem, distances, indices)
    if wrong == "distance":
        distances[2, 3] *= 1 + 1e-14
    elif wrong == "order":
        distances[:, :2], indices[:, :2] = distances[:, 1::-1], indices[:, 1::-1]
    elif wrong == "left out":
        distances, indices = distances[:, 1:], indices[:, 1:]
        problem = Problem(problem.X, problem.queries, 5, "euclidean")
    else:
        indices[0, 1] = indices[0, 0]
    with pytest.raises(AssertionError):
        assert_nearest(problem, distances, indices)
