"""scikit-learn's nearest-neighbour estimators, searching through a bank.

Each class is a subclass of scikit-learn's own of that name and takes its parameters, and one more:
``device``. Validation, votes, averages, graphs and output containers are scikit-learn's; the search
is ``flashmatch.PrototypeBank``'s for Euclidean and cosine distances of dense rows, and
scikit-learn's own for all else. See docs/integrations/scikit-learn.md for what differs.
"""

from .estimators import (
    KNeighborsClassifier,
    KNeighborsRegressor,
    KNeighborsTransformer,
    NearestNeighbors,
    RadiusNeighborsClassifier,
    RadiusNeighborsRegressor,
    RadiusNeighborsTransformer,
)

__all__ = [
    "KNeighborsClassifier",
    "KNeighborsRegressor",
    "KNeighborsTransformer",
    "NearestNeighbors",
    "RadiusNeighborsClassifier",
    "RadiusNeighborsRegressor",
    "RadiusNeighborsTransformer",
]
