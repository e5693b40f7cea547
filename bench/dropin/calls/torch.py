"""Labels, groups and thresholds beside plain torch.

Each is asked of a function, for which nothing is prepared, as of torch, and of a bank.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

import flashmatch
from flashmatch.kernels import Matches, RangeMatches

from .. import ranges
from ..pairs import Case, Pair
from . import in_torch, ranks
from .data import bank_of, random_labels, size_of, threshold_of, unit_vectors

K = 10
ALLOWED = 20
"""Labels of each query's set."""


@dataclass(frozen=True)
class Size:
    queries: int
    rows: int
    channels: int
    labels: int  # or groups

    def __str__(self) -> str:
        return size_of(self.queries, self.rows, self.channels)


class Data:
    """Queries, prototypes and their labels, and the calls of ours that take them."""

    def __init__(self, size: Size, prepared: bool) -> None:
        self.vectors = (
            unit_vectors(size.queries, size.channels, 1),
            unit_vectors(size.rows, size.channels, 0),
        )
        self.own = random_labels(size.queries, size.labels, 3)
        self.labels = random_labels(size.rows, size.labels, 2)
        self.bank = bank_of(self.vectors[1]) if prepared else None

    def ours(self, name: str, *args: Any, **options: Any) -> Callable[[], Any]:
        """The bank's method, or the function, to be called with what is given."""
        if self.bank is not None:
            return partial(getattr(self.bank, name), self.vectors[0], *args, **options)
        function = getattr(flashmatch, name)
        return partial(function, *self.vectors, *args, metric="dot", **options)

    def is_same(self, part: slice) -> Tensor:
        return self.own[part, None] == self.labels

    def is_different(self, part: slice) -> Tensor:
        return self.own[part, None] != self.labels


def same(size: Size, prepared: bool) -> Pair:
    data = Data(size, prepared)
    original = partial(in_torch.best, *data.vectors, K, data.is_different)
    return _best(data, original, same=(data.own, data.labels))


def same_label_by_label(size: Size, prepared: bool) -> Pair:
    data = Data(size, prepared)
    original = partial(in_torch.best_label_by_label, *data.vectors, K, data.own, data.labels)
    return _best(data, original, same=(data.own, data.labels))


def different(size: Size, prepared: bool) -> Pair:
    data = Data(size, prepared)
    original = partial(in_torch.best, *data.vectors, K, data.is_same)
    return _best(data, original, different=(data.own, data.labels))


def allowed(size: Size, prepared: bool) -> Pair:
    data, generator = Data(size, prepared), torch.Generator().manual_seed(4)
    sets = torch.rand(size.queries, size.labels, generator=generator).topk(ALLOWED).indices

    def original() -> Matches:
        refused = torch.ones(size.queries, size.labels, dtype=torch.bool).scatter_(1, sets, False)
        return in_torch.best(*data.vectors, K, lambda part: refused[part][:, data.labels])

    return _best(data, original, allowed=(sets, data.labels))


def groups(size: Size, prepared: bool) -> Pair:
    data = Data(size, prepared)
    return Pair(
        lambda: in_torch.best_groups(*data.vectors, K, data.labels, size.labels),
        data.ours("topk", K, groups=data.labels, per_group=1),
        partial(_share_of_groups, data),
    )


def count_within(size: Size, prepared: bool, share: float) -> Pair:
    data = Data(size, prepared)
    threshold = threshold_of(*data.vectors, share)
    return Pair(
        lambda: in_torch.count_within(*data.vectors, threshold),
        data.ours("count_within", threshold),
        partial(_share_of_counts, data, threshold),
    )


def within_different(size: Size, prepared: bool, share: float) -> Pair:
    data = Data(size, prepared)
    threshold = threshold_of(*data.vectors, share)
    labels = data.own, data.labels
    return Pair(
        lambda: in_torch.within(*data.vectors, threshold, data.is_same),
        data.ours("within", threshold, different=labels, sort=False),
        partial(_share_of_pairs, threshold),
    )


def _best(data: Data, original: Callable[[], Matches], **labels: object) -> Pair:
    return Pair(original, data.ours("topk", K, **labels), partial(_share_of_matches, data))


def _share_of_matches(data: Data, original: Matches, ours: Matches) -> float:
    return ranks.share(original, ours, ranks.evaluated(*data.vectors, ours.indices))


def _share_of_groups(data: Data, original: Matches, ours: Matches) -> float:
    """The original's indices are groups; where two score the same, either may come first."""
    of_groups = Matches(ours.scores, data.labels[ours.indices])
    return ranks.share(original, of_groups, ranks.evaluated(*data.vectors, ours.indices))


def _share_of_counts(data: Data, threshold: float, original: Tensor, ours: Tensor) -> float:
    parts = in_torch.scores_of(*data.vectors)
    undecided = [ranges.at_threshold(scores.numpy(), threshold).sum(1) for _, scores in parts]
    counts = original.numpy(), ours.numpy()
    return ranges.share_of_counts(*counts, np.concatenate(undecided))


def _share_of_pairs(threshold: float, original: RangeMatches, ours: RangeMatches) -> float:
    return ranges.share(ranges.of_matches(original), ranges.of_matches(ours), threshold)


LABELS, GROUPS = Size(1024, 100_000, 128, 1000), Size(1024, 100_000, 128, 10_000)
THRESHOLDS = Size(256, 100_000, 128, 1000)
COUNTED, HARD = 0.01, 1e-4
"""Of all pairs: what reaches the threshold, of a count, and of what has another label."""


def _cases(call: str, peer: str, size: str, prepare: Callable[[bool], Pair]) -> list[Case]:
    """Of the function and of the bank's method."""
    return [
        Case(f"{owner}{call} beside torch, {peer}", "torch", size, partial(prepare, prepared))
        for owner, prepared in (("", False), ("PrototypeBank.", True))
    ]


LABELLED = f"{LABELS}, {LABELS.labels} labels, k = {K}"
CASES = [
    *_cases("topk, same=,", "a mask", LABELLED, partial(same, LABELS)),
    *_cases("topk, same=,", "label by label", LABELLED, partial(same_label_by_label, LABELS)),
    *_cases("topk, different=,", "a mask", LABELLED, partial(different, LABELS)),
    *_cases(
        "topk, allowed=,", "a mask", f"{LABELLED}, {ALLOWED} allowed", partial(allowed, LABELS)
    ),
    *_cases(
        "topk, groups=,", "scatter_reduce", f"{GROUPS}, {GROUPS.labels} groups, k = {K}",
        partial(groups, GROUPS),
    ),
    *_cases(
        "count_within", "sum", f"{THRESHOLDS}, {COUNTED:.2%} of the pairs",
        partial(count_within, THRESHOLDS, share=COUNTED),
    ),
    *_cases(
        "within, different=,", "a mask",
        f"{THRESHOLDS}, {THRESHOLDS.labels} labels, {HARD:.2%} of the pairs",
        partial(within_different, THRESHOLDS, share=HARD),
    ),
]  # fmt: skip
