"""Estimators of ours beside scikit-learn's, and what to give them."""

import numpy as np
from sklearn import neighbors

from flashmatch.adapters import sklearn as ours

NAMES = tuple(ours.__all__)
OF_RADIUS = ("NearestNeighbors", *(name for name in NAMES if name.startswith("Radius")))
OF_K = tuple(name for name in NAMES if not name.startswith("Radius"))
PREDICTORS = tuple(name for name in NAMES if name.endswith(("Classifier", "Regressor")))


def rows(n: int, channels: int, seed: int = 0, dtype: str = "float64") -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, channels)).astype(dtype)


def both(name: str, **parameters: object) -> tuple:
    """Ours and scikit-learn's, which searches every row as well."""
    theirs = getattr(neighbors, name)(**{**parameters, "algorithm": "brute"})
    return getattr(ours, name)(**parameters), theirs


def found_by(estimator, X: object) -> tuple[np.ndarray, ...]:
    """What it finds, by its first way to search; of a radius, in one piece."""
    if hasattr(estimator, "kneighbors"):
        return estimator.kneighbors(X)
    return tuple(np.concatenate(of_rows) for of_rows in estimator.radius_neighbors(X))
