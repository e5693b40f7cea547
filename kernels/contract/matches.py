"""What a search gives."""

from collections.abc import Sequence
from typing import Any, NamedTuple

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


class RangeMatches(NamedTuple):
    """All that reach a score, query by query, as a sparse matrix (CSR) of Q rows.

    Query q has ``indices[offsets[q] : offsets[q + 1]]``, and the scores there.
    """

    offsets: Tensor
    """(Q + 1,) int64, from 0 to n, the number of pairs."""
    indices: Tensor
    """(n,) int64 rows of the prototypes, numbered through all chunks."""
    scores: Tensor
    """(n,) float32; larger is more similar."""

    @property
    def queries(self) -> Any:
        """(n,) int64: the query of each pair."""
        if not isinstance(self.offsets, Tensor):  # as others' arrays came, so they went
            return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))
        counts = self.offsets.diff()
        return torch.arange(len(counts), device=counts.device).repeat_interleave(counts)

    def to(self, device: torch.device | str) -> "RangeMatches":
        """The same on another device."""
        return RangeMatches(*(part.to(device) for part in self))


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


def offsets_of(counts: Tensor) -> Tensor:
    """(Q + 1,) int64, where each query begins that has so many pairs (Q,)."""
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def joined(parts: Sequence[RangeMatches]) -> RangeMatches:
    """Of queries of several searches, one behind another; one part at least."""
    if len(parts) == 1:
        return parts[0]
    counts = torch.cat([part.offsets.diff() for part in parts])
    indices, scores = (torch.cat([part[i] for part in parts]) for i in (1, 2))
    return RangeMatches(offsets_of(counts), indices, scores)


def no_range(queries: Tensor) -> RangeMatches:
    """Nothing for any query (Q, C)."""
    offsets = queries.new_zeros(len(queries) + 1, dtype=torch.int64)
    return RangeMatches(offsets, offsets[:0], queries.new_empty(0, dtype=torch.float32))


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
