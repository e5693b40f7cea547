"""Indexes by description, and functions that take any index."""

import copy

import torch

from ...kernels.contract.arguments import require_int
from .flat import IndexFlat
from .id_map import IndexIDMap, IndexIDMap2
from .index import Index
from .metrics import METRIC_L2
from .pretransform import IndexPreTransform, NormalizationTransform

_ID_MAPS = {"IDMap": IndexIDMap, "IDMap2": IndexIDMap2}
_NORMALIZED = ("L2norm", "L2Norm")


def index_factory(
    d: int, description: str, metric: int = METRIC_L2, *, device: torch.device | str | None = None
) -> Index:
    """The index described: ``"Flat"``; before it, ``"L2norm,"`` (vectors are divided by their
    norms), ``"IDMap,"`` or ``"IDMap2,"`` (the caller's ids), or both; ``",IDMap"`` at the end is as
    at the beginning.

    Raises:
        NotImplementedError, which is a RuntimeError: any other description or metric.
    """
    if not isinstance(description, str):
        raise TypeError(f"description must be a str; got {type(description).__name__}")
    *around, last = description.split(",")
    if last in _ID_MAPS and around[-1:] == ["Flat"]:
        around, last = [last, *around[:-1]], "Flat"
    ids, norms = ([name for name in around if name in names] for names in (_ID_MAPS, _NORMALIZED))
    if last != "Flat" or max(len(ids), len(norms)) > 1 or len(ids + norms) < len(around):
        raise NotImplementedError(
            "description must be 'Flat', or 'Flat' behind 'L2norm,', 'IDMap,', 'IDMap2,' or two of "
            f"these; got {description!r}"
        )
    index: Index = IndexFlat(d, metric, device=device)
    for name in reversed(around):
        if name in _ID_MAPS:
            index = _ID_MAPS[name](index)
        else:
            index = IndexPreTransform(NormalizationTransform(d), index)
    return index


def clone_index(index: Index) -> Index:
    """An index of its own with the same vectors and ids."""
    return copy.deepcopy(index)


def downcast_index(index: Index) -> Index:
    """The index itself: none is ever of a more general type than it is."""
    return index


def omp_set_num_threads(n: int) -> None:
    """``torch.set_num_threads``."""
    torch.set_num_threads(require_int("n", n, 1))


def omp_get_max_threads() -> int:
    """``torch.get_num_threads``."""
    return torch.get_num_threads()


def get_compile_options() -> str:
    """What scripts ask for GPUs by: whether ``"GPU"`` is in it."""
    return "GENERIC GPU" if torch.cuda.is_available() else "GENERIC"
