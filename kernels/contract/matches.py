"""What a search gives."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree


class Matches(NamedTuple):
    """The k best prototypes of each query: score descending, then index ascending."""

    scores: Tensor
    """(Q, k) float32; larger is more similar; -inf where nothing may match."""
    indices: Tensor
    """(Q, k) int64 rows of the prototypes, numbered through all chunks; -1 where none."""

    def _repr_html_(self) -> str:
        from ..notebook.tables import ranked

        return ranked("Matches", *self)


# So that torch.export can save a program that returns one; torch offers no public way.
_pytree._register_namedtuple(Matches, serialized_type_name="flashmatch.Matches")


class Hits(NamedTuple):
    """The k best prototypes of each query by the ids of their bank, in the order of Matches."""

    scores: Tensor
    """(Q, k) float32"""
    ids: Tensor | np.ndarray
    """(Q, k) int64, -1 where none; or str, in an array of dtype object, None where none."""

    def _repr_html_(self) -> str:
        from ..notebook.tables import ranked

        return ranked("Hits", *self)


def no_matches(queries: Tensor, k: int) -> Matches:
    """Of no queries, or none of each."""
    scores = queries.new_empty(queries.shape[0], k, dtype=torch.float32)
    return Matches(scores, torch.empty_like(scores, dtype=torch.int64))


class Found(NamedTuple):
    """What a search of codes gives, and what it took."""

    scores: Tensor
    """(Q, k) fp32"""
    rows: Tensor
    """(Q, k) int64, -1 where none"""
    repaired: int | Tensor
    """Queries that needed a wider search; a tensor where reading it would wait for the device."""
    rescored: int
    """Pairs evaluated in fp64."""
    screened: int
    """Bytes of codes read."""
    nonfinite: int | Tensor = 0
    """Not 0 where some query is not finite, if that is told behind the search and not before."""
