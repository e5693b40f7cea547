"""Conditions by labels and groups, drawn by hypothesis, and what the oracle makes of them."""

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from problems import Problem, vectors
from torch import Tensor

from flashmatch.kernels.contract import reference

NAMES = (0, 1, 2, -7, 2**62, -(2**63), 2**63 - 1)


@dataclass(frozen=True)
class Conditions:
    labels: dict
    """``same``, ``different`` and ``allowed``, as lists."""
    groups: list[int] | None = None
    per_group: int | None = None

    def options(self) -> dict:
        more = {"groups": self.groups, "per_group": self.per_group}
        return self.labels | {name: value for name, value in more.items() if value is not None}

    def masked(self, it: Problem) -> Problem:
        """The problem with labels as a dense mask, for the oracle."""
        mask = reference.label_mask(len(it.queries), it.rows, **self.labels)
        return it.replace(mask=mask if it.mask is None else mask & it.mask)

    def expected(self, it: Problem) -> tuple[Tensor, Tensor]:
        dense = self.masked(it)
        if self.groups is None:
            return dense.oracle()
        matches = dense.replace(k=it.rows).oracle()
        return reference.topk_of_groups(matches, self.groups, self.per_group or 1, it.k)


def labels_of(queries: int, rows: int, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """A pair of random labels."""
    generator = torch.Generator().manual_seed(seed)
    mine, theirs = (torch.randint(count, (n,), generator=generator) for n in (queries, rows))
    return mine, theirs


@st.composite
def conditions(draw: st.DrawFn, it: Problem, *, groups: bool = False) -> Conditions:
    seed = st.integers(0, 2**32)
    labels: dict = {}
    least = 0 if groups else 1
    kinds = st.lists(st.sampled_from(("same", "different", "allowed")), min_size=least, unique=True)
    for kind in draw(kinds):
        names = NAMES[: draw(st.integers(1, len(NAMES)))]
        mine, theirs = labels_of(len(it.queries), it.rows, len(names), draw(seed))
        of_queries, of_prototypes = ([names[i] for i in part.tolist()] for part in (mine, theirs))
        if draw(st.booleans()):  # labels that no prototype has
            of_queries = [-3 if i % 3 == 1 else label for i, label in enumerate(of_queries)]
        if kind == "allowed":
            sizes = draw(st.lists(st.integers(0, 3), min_size=1, max_size=4))
            of_queries = [
                [names[(i + j) % len(names)] for j in range(sizes[i % len(sizes)])]
                + [of_queries[i]] * (i % 2)
                for i in range(len(of_queries))
            ]
        labels[kind] = (of_queries, of_prototypes)
    if not groups:
        return Conditions(labels)
    of_prototypes = labels_of(0, it.rows, draw(st.sampled_from((1, 2, 7, 1000))), draw(seed))[1]
    return Conditions(labels, of_prototypes.tolist(), draw(st.sampled_from((None, 1, 2, 5))))


def plain(
    queries: int, rows: int, k: int, metric: str = "cosine", kind: str = "gaussian"
) -> Problem:
    generator = torch.Generator().manual_seed(3)
    q, p = (vectors(kind, n, 12, generator).float() for n in (queries, rows))
    return Problem(q, [p], k, metric)
