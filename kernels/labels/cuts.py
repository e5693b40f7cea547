"""How a search by labels is cut up: which queries meet which prototypes."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .asked import Asked, Labels
from .spans import begins, spread

LISTED_PRODUCTS = 1 << 19
"""Labels with no more multiplications are listed, pair by pair: a search of them takes longer to
begin (60 us, and 16 ns a pair of 128 channels; two threads of an AMD EPYC with AVX-512)."""

BATCH_PAIRS = 1 << 16
"""Of so many pairs at a time, whose queries have up to twice as many prototypes as each other."""


class Cut(NamedTuple):
    """Queries, and all prototypes that they may match."""

    queries: Tensor
    """(q,) int64: which of those that were asked for."""
    rows: Tensor | None
    """(m,) int64 positions, those of a label ascending; None = all."""
    is_same: bool
    """Whether all of these queries and prototypes have one label in ``same``."""


class Listed(NamedTuple):
    """Queries of several labels, and for each query the prototypes of its own."""

    queries: Tensor
    """(q,) int64: which of those that were asked for."""
    rows: Tensor
    """(m,) int64 positions, label by label, ascending in each."""
    firsts: Tensor
    """(q,) int64: where in ``rows`` those of each query begin."""
    counts: Tensor
    """(q,) int64: how many these are."""

    def pairs(self) -> tuple[Tensor, Tensor]:
        """(n,) int64 each: for every pair its query here, ascending, and its place in ``rows``."""
        places, owners = spread(self.firsts, self.counts)
        return owners, places


class Cuts:
    """Of the queries of a search, whatever is asked for.

    ``whole``: from this share of the prototypes on, a label's are not gathered: all are searched,
    by a mask. Vectors have so many ``channels``, and ``most`` may be gathered for what is listed.
    """

    def __init__(self, asked: Asked, whole: float, channels: int, most: int) -> None:
        self._by_label = None
        if asked.same is not None:
            self._by_label = _ByLabel(asked.same, whole, channels, min(most, BATCH_PAIRS))
        self._different = None if asked.different is None else asked.different[0]

    def of(self, queries: Tensor) -> Iterator[Cut | Listed]:
        """Each of ``queries`` (q,) once, at most: not where no prototype has its label."""
        if self._by_label is not None:
            yield from self._by_label.cuts(queries)
        elif self._different is not None:  # neighbours of one label share a mask (M,)
            yield Cut(self._different[queries].argsort(stable=True), None, False)
        else:
            yield Cut(torch.arange(len(queries), device=queries.device), None, False)


class _ByLabel:
    """Prototypes in the order of their labels, and where those of each query are."""

    def __init__(self, labels: Labels, whole: float, channels: int, most: int) -> None:
        of_queries, of_prototypes = labels
        in_order, self._order = of_prototypes.sort(stable=True)
        self._starts = torch.searchsorted(in_order, of_queries)
        self._stops = torch.searchsorted(in_order, of_queries, right=True)
        self._least, self._most = max(1, whole * len(in_order)), most
        self._listed = min(most, LISTED_PRODUCTS // channels)

    def cuts(self, queries: Tensor) -> Iterator[Cut | Listed]:
        starts, stops = self._starts[queries], self._stops[queries]
        here = (stops > starts).nonzero()[:, 0]
        here = here[starts[here].argsort(stable=True)]
        firsts, counts = torch.unique_consecutive(starts[here], return_counts=True)
        ends = counts.cumsum(0)
        sizes = stops[here[ends - 1]] - firsts
        is_listed = counts * sizes <= self._listed
        each = torch.stack([ends - counts, ends, firsts, firsts + sizes], 1)
        for first, last, start, stop in each[~is_listed].tolist():
            if stop - start >= self._least:
                yield Cut(here[first:last], None, stop - start == len(self._order))
            else:
                yield Cut(here[first:last], self._order[start:stop], True)
        for labels in _batches(is_listed.nonzero()[:, 0], counts, sizes, self._most):
            own, each = counts[labels], sizes[labels]
            asked, _ = spread(ends[labels] - own, own)
            rows, _ = spread(firsts[labels], each)
            about = begins(each).repeat_interleave(own), each.repeat_interleave(own)
            yield Listed(here[asked], self._order[rows], *about)


def _batches(labels: Tensor, counts: Tensor, sizes: Tensor, most: int) -> Iterator[Tensor]:
    """Some of ``labels`` (l,) at a time: of about one size, and of ``most`` pairs or so."""
    doublings = torch.frexp(sizes[labels].double()).exponent
    for doubling in doublings.unique().tolist():
        alike = labels[doublings == doubling]
        pairs = (counts[alike] * sizes[alike]).cumsum(0)
        ends = torch.unique_consecutive(pairs // max(most, 1), return_counts=True)[1]
        yield from alike.split(ends.tolist())
