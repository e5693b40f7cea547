"""Problems of nearest neighbours, and a search in long double that judges what was found.

Long double has 64 bits of mantissa on x86; where it is fp64, the reference sums differently at
least, and the tolerances still hold.
"""

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

METRICS = ("euclidean", "sqeuclidean", "cosine")
KINDS = ("gaussian", "integers", "duplicates", "close", "offset", "zeros", "short", "huge")
EPS = 2.0**-52


@dataclass(frozen=True)
class Problem:
    X: np.ndarray
    queries: np.ndarray
    k: int
    metric: str

    def __repr__(self) -> str:
        return f"Problem({self.X.shape}, {self.queries.shape}, {self.X.dtype}, {self.k}, \
{self.metric})"


def drawn(kind: str, n: int, channels: int, random: np.random.Generator) -> np.ndarray:
    """Rows (n, channels) float64 of one of ``KINDS``."""
    X = random.normal(size=(n, channels))
    if kind == "integers":
        X = random.integers(-2, 3, (n, channels)).astype(float)
    if kind == "duplicates":
        X = X[random.integers(0, max(1, n // 8), n)]
    if kind == "close":
        X = X[:1] + 1e-7 * X
    if kind == "zeros":
        X[random.random(n) < 0.3] = 0
    return {"offset": X + 1e4, "short": X * 5e-9, "huge": X * 1e20}.get(kind, X)


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, channels = draw(st.integers(1, 90)), draw(st.integers(1, 20))
    kind = draw(st.sampled_from(KINDS))
    X = drawn(kind, n, channels, random)
    own = X[random.integers(0, n, draw(st.integers(1, 9)))]
    noise = random.normal(size=own.shape) * np.abs(X).max()
    queries = own if draw(st.booleans()) else own + noise * draw(st.sampled_from([1e-9, 0.3]))
    dtypes = draw(st.sampled_from([("float64", "float64"), ("float32",) * 2, ("int64", "float64")]))
    queries = -queries if draw(st.booleans()) else queries
    if kind == "huge" and dtypes[0] == "int64":
        dtypes = ("float64", "float64")
    X, queries = (a.astype(t) for a, t in zip((X, queries), dtypes, strict=True))
    return Problem(X, queries, draw(st.integers(1, n)), draw(st.sampled_from(METRICS)))


def reference(problem: Problem) -> np.ndarray:
    """Distances (Q, M) in long double, from differences."""
    queries, X = (a.astype(np.longdouble)[:, None] for a in (problem.queries, problem.X))
    X = X.swapaxes(0, 1)
    if problem.metric != "cosine":
        squares = ((queries - X) ** 2).sum(-1)
        return squares if problem.metric == "sqeuclidean" else np.sqrt(squares)
    norms = [np.sqrt((a**2).sum(-1, keepdims=True)) for a in (queries, X)]
    q, p = (a / np.maximum(n, 1e-8) for a, n in zip((queries, X), norms, strict=True))
    shortfall = sum(np.where(n[..., 0] < 1e-8, 1 - (n[..., 0] / 1e-8) ** 2, 0) for n in norms)
    return ((q - p) ** 2).sum(-1) / 2 + shortfall / 2  # 1 - q.p, without cancellation


def slack(problem: Problem, truth: np.ndarray) -> np.ndarray:
    """What fp64 sums over the channels may be off, and the one rounding to the dtype returned.

    A unit vector is off by some eps, and so is a difference of two of length sqrt(2 d): half its
    square by sqrt(2 d) eps.
    """
    narrow = problem.metric == "cosine" and problem.X.dtype == problem.queries.dtype == np.float32
    terms = problem.X.shape[1] + 8
    scale = truth
    if problem.metric == "cosine":
        scale = np.where(truth < 0.5, np.sqrt(2 * truth) + terms * EPS, 1)
    return (terms * EPS * scale + (2.0**-24 * truth if narrow else 0)).astype(np.float64)


def assert_nearest(problem: Problem, distances: np.ndarray, indices: np.ndarray) -> None:
    """Right distances, in order, and none left out that is nearer by more than fp64 can be off."""
    truth = reference(problem)
    assert distances.shape == indices.shape == (len(problem.queries), problem.k)
    assert all(len(set(row)) == problem.k for row in indices)
    of_found = np.take_along_axis(truth, indices, axis=1)
    off = np.abs(distances - of_found)
    assert (off <= slack(problem, of_found)).all(), off.max()
    rising, tied = np.diff(distances) > 0, np.diff(distances) == 0
    assert (rising | (tied & (np.diff(indices) > 0))).all(), "not in order"
    left_out = truth.copy()
    np.put_along_axis(left_out, indices, np.inf, axis=1)
    nearest = left_out.min(axis=1)
    bound = distances[:, -1] - slack(problem, distances[:, -1]) * 2
    assert (nearest >= bound).all(), "a nearer row was left out"
