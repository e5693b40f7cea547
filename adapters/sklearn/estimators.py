"""The estimators: scikit-learn's own, with a search of ours in front."""

import functools
import inspect
from typing import TypeVar

from sklearn import neighbors

from .fitted import SearchesBank
from .searches import SearchesNearest, SearchesWithin, Votes

_Class = TypeVar("_Class", bound=type)


def _takes_device(cls: _Class) -> _Class:
    """A constructor of scikit-learn's signature and ``device``: it reads parameters off that."""
    theirs = inspect.signature(cls.__bases__[-1].__init__)

    @functools.wraps(SearchesBank.__init__)
    def __init__(self, *args, **parameters) -> None:
        SearchesBank.__init__(self, *args, **parameters)

    device = inspect.Parameter("device", inspect.Parameter.KEYWORD_ONLY, default=None)
    parameters = [*theirs.parameters.values(), device]
    signature = theirs.replace(parameters=parameters)
    __init__.__signature__ = signature  # pyright: ignore[reportAttributeAccessIssue]
    cls.__init__ = __init__
    return cls


@_takes_device
class NearestNeighbors(SearchesNearest, SearchesWithin, neighbors.NearestNeighbors):
    """Exact nearest neighbours: ``sklearn.neighbors.NearestNeighbors`` through a bank.

    Args:
        n_neighbors: neighbours per query where ``kneighbors`` is not told.
        radius: where ``radius_neighbors`` is not told.
        metric: a bank searches by ``"minkowski"`` with p = 2, ``"euclidean"`` or ``"l2"``, all one;
            by ``"sqeuclidean"``; and by ``"cosine"``. scikit-learn searches by others, and sparse
            rows.
        device: where a bank searches; None: on the CPU.
        algorithm, leaf_size, n_jobs: for scikit-learn's searches; torch's threads do a bank's work.
        p, metric_params: as scikit-learn's.
    """


@_takes_device
class KNeighborsTransformer(SearchesNearest, neighbors.KNeighborsTransformer):
    """A sparse graph of neighbours, for what takes precomputed distances: t-SNE, Isomap, DBSCAN.

    Args:
        mode: ``"distance"``, with the row itself and ``n_neighbors`` more; or ``"connectivity"``.

    Others as of ``NearestNeighbors``.
    """


@_takes_device
class RadiusNeighborsTransformer(SearchesWithin, neighbors.RadiusNeighborsTransformer):
    """A sparse graph of all neighbours within a radius, for what takes precomputed distances.

    Args:
        mode: ``"distance"`` or ``"connectivity"``.

    Others as of ``NearestNeighbors``.
    """


@_takes_device
class KNeighborsClassifier(Votes, SearchesNearest, neighbors.KNeighborsClassifier):
    """The vote of the nearest neighbours.

    Args:
        weights: ``"uniform"``, ``"distance"`` or a function of distances (Q, k); as scikit-learn's.

    Others as of ``NearestNeighbors``.
    """


@_takes_device
class KNeighborsRegressor(SearchesNearest, neighbors.KNeighborsRegressor):
    """The mean of the nearest neighbours' targets.

    Args: as of ``KNeighborsClassifier``.
    """


@_takes_device
class RadiusNeighborsClassifier(Votes, SearchesWithin, neighbors.RadiusNeighborsClassifier):
    """The vote of all neighbours within a radius.

    Args:
        weights: ``"uniform"``, ``"distance"`` or a function of distances, (Q,) of arrays.
        outlier_label: the class of queries without neighbours; as scikit-learn's.

    Others as of ``NearestNeighbors``.
    """


@_takes_device
class RadiusNeighborsRegressor(SearchesWithin, neighbors.RadiusNeighborsRegressor):
    """The mean of the targets of all neighbours within a radius; NaN where there are none.

    Args: as of ``RadiusNeighborsClassifier``, but for ``outlier_label``.
    """
