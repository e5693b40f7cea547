"""How a search by labels is cut up: which queries meet which prototypes."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .asked import Asked, Labels

BATCH_PAIRS = 1 << 16
"""Products that take about as long as starting a search: labels share one up to so many."""


class Cut(NamedTuple):
    """Queries, and all prototypes that they may match."""

    queries: Tensor
    """(q,) int64: which of those that were asked for."""
    rows: Tensor | None
    """(m,) int64 positions, those of a label ascending; None = all."""
    is_same: bool
    """Whether all of these queries and prototypes have one label in ``same``."""


class Cuts:
    """Of the queries of a search, whatever is asked for.

    ``whole``: from this share of the prototypes on, a label's are not gathered: all are searched,
    by a mask.
    """

    def __init__(self, asked: Asked, whole: float) -> None:
        self._by_label = None if asked.same is None else _ByLabel(asked.same, whole)
        self._different = None if asked.different is None else asked.different[0]

    def of(self, queries: Tensor) -> Iterator[Cut]:
        """Each of ``queries`` (q,) once, at most: not where no prototype has its label."""
        if self._by_label is not None:
            yield from self._by_label.cuts(queries)
        elif self._different is not None:  # neighbours of one label share a mask (M,)
            yield Cut(self._different[queries].argsort(stable=True), None, False)
        else:
            yield Cut(torch.arange(len(queries), device=queries.device), None, False)


class _ByLabel:
    """Prototypes in the order of their labels, and where those of each query are."""

    def __init__(self, labels: Labels, whole: float) -> None:
        of_queries, of_prototypes = labels
        in_order, self._order = of_prototypes.sort(stable=True)
        self._starts = torch.searchsorted(in_order, of_queries)
        self._stops = torch.searchsorted(in_order, of_queries, right=True)
        self._least = max(1, whole * len(in_order))

    def cuts(self, queries: Tensor) -> Iterator[Cut]:
        starts, stops = self._starts[queries], self._stops[queries]
        here = (stops > starts).nonzero()[:, 0]
        here = here[starts[here].argsort(stable=True)]
        firsts, counts = torch.unique_consecutive(starts[here], return_counts=True)
        ends = counts.cumsum(0)
        lasts = stops[here[ends - 1]]
        batch, pairs = [], (0, 0)
        for span in torch.stack([ends - counts, ends, firsts, lasts]).T.tolist():
            own = span[1] - span[0], span[3] - span[2]
            if own[1] >= self._least:
                yield Cut(here[span[0] : span[1]], None, own[1] == len(self._order))
                continue
            wider = pairs[0] + own[0], pairs[1] + own[1]
            if batch and wider[0] * wider[1] > BATCH_PAIRS:
                yield self._joined(batch, here)
                batch, wider = [], own
            batch.append(span)
            pairs = wider
        if batch:
            yield self._joined(batch, here)

    def _joined(self, batch: list[list[int]], here: Tensor) -> Cut:
        queries = torch.cat([here[first:last] for first, last, *_ in batch])
        rows = torch.cat([self._order[first:last] for *_, first, last in batch])
        return Cut(queries, rows, len(batch) == 1)
