"""Any sequence of calls, made to scikit-learn's estimators and to ours.

Ours is judged by a search in long double; scikit-learn's may differ from it by its own error, and
where distances tie. What is not searched by ours must be scikit-learn's result to the last bit.
"""

import pickle
import warnings

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from sklearn import neighbors
from sklearn.base import clone
from sklearn_oracle import EPS, KINDS, METRICS, Problem, assert_nearest, drawn, reference
from sklearn_pairs import NAMES

from flashmatch.adapters import sklearn as ours

SETTINGS = (
    {"metric": "minkowski", "p": 2},
    {"metric": "euclidean"},
    {"metric": "sqeuclidean"},
    {"metric": "cosine"},
    {"metric": "manhattan"},
    {"metric": "minkowski", "p": 3},
    {"metric": "minkowski", "p": np.inf},
)
LAYOUTS = {
    "C": np.ascontiguousarray,
    "Fortran": np.asfortranarray,
    "strided": lambda X: np.repeat(X, 2, axis=0)[::2],
    "reversed": lambda X: X[::-1].copy()[::-1],
    "list": np.ndarray.tolist,
}
GIVEN = ("array", "array", "KDTree", "BallTree", "theirs", "ours")


class Machine(RuleBasedStateMachine):
    """``X`` and ``metric`` are what either estimator was fitted with; None: nothing yet."""

    @initialize(
        seed=st.integers(0, 2**32),
        name=st.sampled_from(NAMES),
        channels=st.sampled_from((1, 3, 18)),
    )
    def start(self, seed: int, name: str, channels: int) -> None:
        self.random, self.channels = np.random.default_rng(seed), channels
        options = {"outlier_label": 0} if name == "RadiusNeighborsClassifier" else {}
        self.pair = [getattr(library, name)(**options) for library in (neighbors, ours)]
        self.X, self.metric = None, None

    @rule(
        n=st.integers(2, 70),
        kind=st.sampled_from(KINDS),
        dtype=st.sampled_from(("float64", "float32", "int64")),
        layout=st.sampled_from(tuple(LAYOUTS)),
        given=st.sampled_from(GIVEN),
    )
    def fit(self, n: int, kind: str, dtype: str, layout: str, given: str) -> None:
        X = drawn(kind, n, self.channels, self.random)
        X = X.astype("float64" if kind == "huge" and dtype == "int64" else dtype)
        self.y = self.random.integers(0, 3, n)
        handed, tree = LAYOUTS[layout](X), None
        if given in ("KDTree", "BallTree"):
            tree = self.random.choice(["euclidean", "manhattan"])
            handed = getattr(neighbors, given)(handed, metric=tree)
        elif given != "array":
            options = {key: getattr(self.pair[1], key) for key in ("metric", "p")}
            library = ours if given == "ours" else neighbors
            handed = library.NearestNeighbors(**options).fit(handed)
        for estimator in self.pair:
            estimator.fit(handed, self.y)
        self.X = np.asarray(self.pair[0]._fit_X)
        options = {key: getattr(self.pair[1], key) for key in ("metric", "p")}
        self.metric = tree or options["metric"]
        if self.metric == "minkowski":
            self.metric = {2: "euclidean", 3: "cubes", np.inf: "chebyshev"}[options["p"]]
        self.asked_for = options

    @rule(options=st.sampled_from(SETTINGS))
    def set_params(self, options: dict) -> None:
        for estimator in self.pair:
            estimator.set_params(**options)

    @precondition(lambda self: self.X is not None)
    @rule(through=st.sampled_from(("pickle", "clone")))
    def copy(self, through: str) -> None:
        if through == "pickle" and type(self.pair[0]._fit_X) is np.ndarray:
            self.pair[0] = pickle.loads(pickle.dumps(self.pair[0]))  # not of a tree's view
        if through == "pickle":
            self.pair[1] = pickle.loads(pickle.dumps(self.pair[1]))
        elif self.is_unchanged():
            fitted = self.X
            self.pair = [clone(estimator).fit(fitted, self.y) for estimator in self.pair]
            self.metric = self._of_parameters()

    @precondition(lambda self: self.X is not None and hasattr(self.pair[1], "kneighbors"))
    @rule(k=st.integers(1, 70), of=st.integers(0, 5), change=st.booleans())
    def kneighbors(self, k: int, of: int, change: bool) -> None:
        queries = self._queries(of)
        k = min(k, len(self.X) - (queries is None))
        arguments = (queries, None if change else k)
        if change:
            for estimator in self.pair:
                estimator.set_params(n_neighbors=k)
        theirs, mine = (estimator.kneighbors(*arguments) for estimator in self.pair)
        if self.metric not in METRICS:
            np.testing.assert_equal(mine, theirs)
            return
        assert [a.dtype for a in mine] == [a.dtype for a in theirs]
        if queries is None:
            self._assert_others(k, *mine)
            return
        assert_nearest(Problem(self.X, queries, k, self.metric), *mine)
        self._assert_as_theirs(queries, theirs, mine)
        graph = self.pair[1].kneighbors_graph(queries, k, mode="distance")
        np.testing.assert_array_equal(graph.indices.reshape(mine[1].shape), mine[1])
        np.testing.assert_array_equal(graph.data.reshape(mine[0].shape), mine[0])

    @precondition(lambda self: self.X is not None and hasattr(self.pair[1], "radius_neighbors"))
    @rule(of=st.integers(0, 5), quantile=st.floats(0, 1), nudge=st.sampled_from((-1, 0, 0, 1)))
    def radius_neighbors(self, of: int, quantile: float, nudge: int) -> None:
        queries = self._queries(of)
        asked = self.X if queries is None else queries
        if self.metric not in METRICS:
            radius = float(self.random.uniform(0, 5))
            theirs, mine = (e.radius_neighbors(queries, radius) for e in self.pair)
            for a, b in zip((*mine[0], *mine[1]), (*theirs[0], *theirs[1]), strict=True):
                np.testing.assert_array_equal(a, b)
            return
        exact = ours.NearestNeighbors(metric=self.metric).fit(self.X)
        distances, indices = exact.kneighbors(asked, len(self.X))
        radius = float(np.quantile(distances, quantile, method="nearest"))
        radius = max(0.0, float(np.nextafter(radius, nudge * np.inf))) if nudge else radius
        theirs, mine = (e.radius_neighbors(queries, radius) for e in self.pair)
        truth = reference(Problem(self.X, asked, 1, self.metric)).astype(float)
        off = self._error_of_theirs(asked)
        for i, found in enumerate(mine[1]):
            inside = indices[i][distances[i] <= radius]
            inside = np.sort(inside if queries is not None else inside[inside != i])
            np.testing.assert_array_equal(found, inside)
            np.testing.assert_array_equal(mine[0][i], distances[i][indices[i].argsort()][found])
            differing = np.setxor1d(found, theirs[1][i])
            assert (np.abs(truth[i, differing] - radius) <= off).all()

    @precondition(lambda self: self.X is not None and hasattr(self.pair[1], "predict"))
    @rule(of=st.integers(1, 5), weights=st.sampled_from(("uniform", "distance")))
    def predict(self, of: int, weights: str) -> None:
        queries = self._queries(of)
        for estimator in self.pair:
            estimator.set_params(weights=weights)
            if hasattr(estimator, "kneighbors"):
                estimator.set_params(n_neighbors=min(estimator.n_neighbors, len(self.X)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of queries without neighbours
            mine = self.pair[1].predict(queries)
            # scikit-learn's may predict by the metric that was set, and has no weights of inf.
            if not self.is_unchanged() or self._error_of_theirs(queries) == np.inf:
                self._assert_predicted(queries, mine)
                return
            theirs = self.pair[0].predict(queries)
        if self.metric not in METRICS:
            np.testing.assert_array_equal(mine, theirs)
            return
        self._assert_predicted(queries, mine)
        clear = self._are_clear(queries)
        np.testing.assert_allclose(mine[clear], theirs[clear], rtol=1e-6, atol=1e-9)

    def is_unchanged(self) -> bool:
        """Whether the metric is as it was when fitted."""
        return all(getattr(self.pair[1], key) == value for key, value in self.asked_for.items())

    def _of_parameters(self) -> str:
        metric = self.asked_for["metric"]
        names = {2: "euclidean", 3: "cubes", np.inf: "chebyshev"}
        return names[self.asked_for["p"]] if metric == "minkowski" else metric

    def _queries(self, of: int) -> np.ndarray | None:
        """None, own rows, or others near and far, in one dtype or the other."""
        if of == 0:
            return None
        own = self.X[self.random.integers(0, len(self.X), self.random.integers(1, 6))]
        if of == 1:
            return own.copy()
        scale = np.abs(self.X).max() * (1e-9, 0.3, 3)[of % 3]
        queries = own + scale * self.random.normal(size=own.shape)
        return queries.astype("float32" if self.X.dtype == np.float32 and of < 5 else "float64")

    def _error_of_theirs(self, queries: np.ndarray) -> float:
        """Of a distance, at most: brute force subtracts products in fp64, or cosines in theirs."""
        squares = [(a.astype(float) ** 2).sum(axis=1).max() for a in (self.X, queries)]
        if np.float32 in (self.X.dtype, queries.dtype) and sum(squares) > 2.0**125:
            return np.inf  # which is what some of its float32 squares are
        terms = 8 * (self.channels + 16)
        if self.metric == "cosine":
            norms = np.sqrt(
                np.concatenate([(a.astype(float) ** 2).sum(1) for a in (self.X, queries)])
            )
            if ((norms > 0) & (norms < 1e-5)).any():
                return np.inf  # scikit-learn divides by 1 where a norm is short
            narrow = self.X.dtype == queries.dtype == np.float32
            return terms * (2.0**-23 if narrow else EPS)
        error = terms * EPS * sum(squares)
        return error if self.metric == "sqeuclidean" else float(np.sqrt(error))

    def _assert_as_theirs(self, queries: np.ndarray, theirs: tuple, mine: tuple) -> None:
        off = self._error_of_theirs(queries)
        assert (np.abs(mine[0] - theirs[0]) <= off).all()
        truth = reference(Problem(self.X, queries, 1, self.metric)).astype(float)
        of_theirs = np.take_along_axis(truth, theirs[1], axis=1)
        of_mine = np.take_along_axis(truth, mine[1], axis=1)
        assert (np.abs(of_theirs - of_mine) <= 2 * off).all()

    def _assert_others(self, k: int, distances: np.ndarray, indices: np.ndarray) -> None:
        """Of the training rows: as if asked for one more, less the row itself or the first."""
        exact = ours.NearestNeighbors(metric=self.metric).fit(self.X)
        more = exact.kneighbors(self.X, k + 1)
        assert_nearest(Problem(self.X, self.X, k + 1, self.metric), *more)
        for i, row in enumerate(more[1]):
            left = np.delete(np.arange(k + 1), np.flatnonzero(row == i) if i in row else 0)
            np.testing.assert_array_equal(indices[i], row[left])
            np.testing.assert_array_equal(distances[i], more[0][i, left])

    def _assert_predicted(self, queries: np.ndarray, predicted: np.ndarray) -> None:
        """As scikit-learn's vote or mean of the neighbours that ours finds."""
        if self.metric not in METRICS:
            return
        fresh = clone(self.pair[1]).set_params(metric=self.metric, p=2).fit(self.X, self.y)
        np.testing.assert_array_equal(predicted, fresh.predict(queries))

    def _are_clear(self, queries: np.ndarray) -> np.ndarray:
        """(Q,): no distance is near enough to the last neighbour's for an error to matter."""
        estimator, off = self.pair[1], self._error_of_theirs(queries)
        truth = np.sort(reference(Problem(self.X, queries, 1, self.metric)).astype(float), axis=1)
        if estimator.weights == "distance":  # whose share is 1 / distance
            off = np.inf if truth.min() <= 1e7 * off else off
        if hasattr(estimator, "kneighbors"):
            padded = np.pad(truth, ((0, 0), (0, 1)), constant_values=np.inf)
            k = estimator.n_neighbors
            return padded[:, k] - padded[:, k - 1] > 4 * off
        return (np.abs(truth - estimator.radius) > 4 * off).all(axis=1)


TestMachine = Machine.TestCase
TestMachine.settings = settings(stateful_step_count=12)
TestMachine.pytestmark = [pytest.mark.hypothesis]


@pytest.mark.parametrize("wrong", ["boundary", "order"])
def test_the_machine_sees_what_is_wrong(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine()
    machine.start(0, "NearestNeighbors", 3)
    machine.fit(40, "integers", "float64", "C", "array")
    right = type(machine.pair[1]).radius_neighbors, type(machine.pair[1]).kneighbors
    machine.radius_neighbors(1, 0.3, 0), machine.kneighbors(9, 3, False)

    def fewer(self, X=None, radius=None):
        return right[0](self, X, np.nextafter(radius, 0))

    def reversed_(self, X=None, n_neighbors=None):
        return tuple(a[:, ::-1] for a in right[1](self, X, n_neighbors))

    name, other = ("radius_neighbors", fewer) if wrong == "boundary" else ("kneighbors", reversed_)
    monkeypatch.setattr(type(machine.pair[1]), name, other)
    with pytest.raises(AssertionError):
        getattr(machine, name)(*((1, 0.3, 0) if wrong == "boundary" else (9, 3, False)))
