"""What is asked by labels and groups: checked here, before anything is computed."""

import reprlib
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..arrays.taken import AnyArray, as_tensor
from ..contract.arguments import require_dense, require_int
from ..operators.topk_operator import refuse_tangents

_SIGNED = (torch.int8, torch.int16, torch.int32, torch.int64)
_INTEGERS = (torch.uint8, *_SIGNED, torch.uint16, torch.uint32, torch.uint64)
Labels = tuple[Tensor, Tensor]
"""Of the queries (Q,) and of the prototypes (M,), int64."""


@dataclass(frozen=True, eq=False)
class Sets:
    """A set of labels for each query, one behind another, and the labels of the prototypes."""

    counts: Tensor
    """(Q,) int64"""
    labels: Tensor
    """(n,) int64"""
    of_prototypes: Tensor
    """(M,) int64"""


@dataclass(frozen=True, eq=False)
class Asked:
    """Conditions that have to hold together; None for those that were not given."""

    same: Labels | None = None
    different: Labels | None = None
    allowed: Sets | None = None
    groups: Tensor | None = None
    """(M,) int64"""
    per_group: int = 1

    def of(self, queries: slice) -> "Asked":
        """The same of some of the queries; not of sets."""
        assert self.allowed is None
        same, different = (
            None if pair is None else (pair[0][queries], pair[1])
            for pair in (self.same, self.different)
        )
        return replace(self, same=same, different=different)

    def on(self, device: torch.device) -> "Asked":
        """The same on another device."""
        allowed = self.allowed
        if allowed is not None:
            parts = allowed.counts, allowed.labels, allowed.of_prototypes
            allowed = Sets(*(part.to(device) for part in parts))
        same, different = (
            None if pair is None else (pair[0].to(device), pair[1].to(device))
            for pair in (self.same, self.different)
        )
        groups = None if self.groups is None else self.groups.to(device)
        return replace(self, same=same, different=different, allowed=allowed, groups=groups)


def as_asked(
    vectors: Sequence[Tensor],
    rows: int,
    same: Any,
    different: Any,
    allowed: Any,
    groups: AnyArray | None = None,
    per_group: object = None,
) -> Asked | None:
    """The checked conditions on the queries' device; None where none is given.

    ``vectors``: the queries (Q, C), and the prototypes whose gradients may be wanted; ``rows``: M.

    Raises:
        TypeError, ValueError: naming argument, expectation and value.
        NotImplementedError: a transform or a compiler looks on.
    """
    if all(value is None for value in (same, different, allowed, groups, per_group)):
        return None
    _refuse_onlookers(vectors)
    queries, device = vectors[0].shape[0], vectors[0].device
    if groups is None and per_group is not None:
        raise ValueError(f"per_group must be given with groups; got {per_group!r} without")
    n = 1 if per_group is None else require_int("per_group", per_group, least=1)
    asked = Asked(
        None if same is None else _pair_of("same", same, queries, rows),
        None if different is None else _pair_of("different", different, queries, rows),
        None if allowed is None else _sets_of(allowed, queries, rows),
        None if groups is None else _labels_of("groups", groups, rows, "prototypes"),
        n,
    )
    return asked.on(device)


def as_asked_of_itself(rows: int, device: torch.device, same: Any, different: Any) -> Asked | None:
    """As ``as_asked``, where each of M prototypes is a query: labels are (M,), and no pairs."""
    if same is None and different is None:
        return None
    _refuse_onlookers([])
    own = (
        None if labels is None else _labels_of(name, labels, rows, "prototypes").to(device)
        for name, labels in (("same", same), ("different", different))
    )
    of_same, of_different = (None if labels is None else (labels, labels) for labels in own)
    return Asked(of_same, of_different)


def _refuse_onlookers(vectors: Sequence[Tensor]) -> None:
    """What is searched depends on the labels' values, which a transform or a graph has not."""
    what = "searches with same, different, allowed or groups do not work"
    if torch.compiler.is_compiling():
        raise NotImplementedError(
            f"{what} in torch.export, nor in torch.compile's graphs: use mask"
        )
    if torch._C._are_functorch_transforms_active():
        raise NotImplementedError(f"{what} under torch.func (vmap, grad): use mask")
    if any(x.is_meta for x in vectors):
        raise NotImplementedError(f"{what} on meta: use mask")
    refuse_tangents(vectors)


def _pair_of(name: str, value: object, queries: int, rows: int) -> Labels:
    of_queries, of_prototypes = _two(name, value, "query_labels")
    return (
        _labels_of(f"{name}[0]", of_queries, queries, "queries"),
        _labels_of(f"{name}[1]", of_prototypes, rows, "prototypes"),
    )


def _two(name: str, value: object, first: str) -> tuple[Any, Any]:
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        length = f" of length {len(value)}" if isinstance(value, (tuple, list)) else ""
        raise TypeError(
            f"{name} must be a pair ({first}, prototype_labels); got {type(value).__name__}{length}"
        )
    return value[0], value[1]


def _labels_of(name: str, value: AnyArray, count: int, whose: str) -> Tensor:
    labels = _integers(name, value)
    if labels.shape != (count,):
        raise ValueError(
            f"{name} must have shape ({count},), one for each of the {whose}; "
            f"got {tuple(labels.shape)}"
        )
    return labels


def _integers(name: str, value: AnyArray) -> Tensor:
    """int64; a uint64 beyond it is refused."""
    if isinstance(value, (list, tuple)):
        if len(value) == 0:
            return torch.empty(0, dtype=torch.int64, device="cpu")
        if any(isinstance(label, (str, bytes)) for label in value):
            raise TypeError(f"{name} must be integers; got {reprlib.repr(value)}")
    labels = as_tensor(name, value)
    require_dense(name, labels)
    if labels.dtype not in _INTEGERS:
        raise TypeError(f"{name} must be integers; got {labels.dtype}")
    signed = labels.detach().to(torch.int64)
    if labels.dtype == torch.uint64 and bool((signed < 0).any()):
        most = int(signed[signed < 0].max()) + 2**64
        raise ValueError(f"{name} must be below 2^63; got {most}")
    return signed


def _sets_of(value: object, queries: int, rows: int) -> Sets:
    given, of_prototypes = _two("allowed", value, "label_sets")
    name, device = "allowed[0]", torch.device("cpu")
    if isinstance(given, (str, bytes, Set)) or not _is_listed(given):
        raise TypeError(
            f"{name} must be a sequence of {queries} sets of labels; got {type(given).__name__}"
        )
    if len(given) != queries:
        raise ValueError(
            f"{name} must have {queries} sets of labels, one for each of the queries; "
            f"got {len(given)}"
        )
    sets = [_set_of(f"{name}[{i}]", labels).to(device) for i, labels in enumerate(given)]
    counts = torch.tensor([len(labels) for labels in sets], dtype=torch.int64, device=device)
    labels = torch.cat([torch.empty(0, dtype=torch.int64, device=device), *sets])
    return Sets(counts, labels, _labels_of("allowed[1]", of_prototypes, rows, "prototypes"))


def _is_listed(value: object) -> bool:
    if isinstance(value, Tensor) and value.ndim == 0:
        return False
    return isinstance(value, Iterable) and hasattr(value, "__len__")


def _set_of(name: str, value: Any) -> Tensor:
    labels = _integers(name, list(value) if isinstance(value, Set) else value)
    if labels.ndim != 1:
        raise ValueError(
            f"{name} must be a sequence of labels; got {reprlib.repr(value)} "
            f"of shape {tuple(labels.shape)}"
        )
    return labels
