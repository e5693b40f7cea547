"""Which of the ranked matches are relevant to their query, and how many there are to find."""

import reprlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..kernels._checks import require_dense

MAX_ROWS = 2**32  # of a gallery; so that a query and a row fit into one integer
Labels = Tensor | np.ndarray | Sequence[int]


class Relevance(NamedTuple):
    """What metrics need to know of a batch of ranked matches."""

    relevant: Tensor
    """(Q, k) bool: is the match at this rank relevant? Best first."""
    total: Tensor
    """(Q,) int64: relevant prototypes there are, found or not."""
    retrieved: Tensor
    """(Q,) int64: matches there are, relevant or not; below k where indices were -1."""


def relevance(
    indices: Tensor,
    query_labels: Labels,
    prototype_labels: Labels,
    *,
    exclude_self: Labels | None = None,
) -> Relevance:
    """A match is relevant if its prototype has the label of the query.

    Args:
        indices: (Q, k) integers, the ranked matches, best first; -1 = none, never relevant.
        query_labels: (Q,) integers.
        prototype_labels: (M,) integers, of the whole gallery.
        exclude_self: (Q,) the prototype that each query itself is, or -1: for leave-one-out, where
            queries are searched among themselves. It is taken out of the ranking, wherever in it it
            is, and not counted; what followed it moves up. All rankings lose their last column, so
            search one match more than is to be evaluated.

    Raises:
        TypeError, ValueError: naming the argument, what was expected, and what was given. Values
            are looked at only on the CPU, since looking elsewhere would wait for the device.

    Takes O((M + Q) log M + Q k), never (Q, M): the gallery's labels are sorted in each call, so
    give many queries at once where it is large.
    """
    require_indices(indices)
    queries = require_labels("query_labels", query_labels, indices.device, len(indices))
    prototypes = require_labels("prototype_labels", prototype_labels, indices.device)
    require_within("indices", indices, len(prototypes))
    selves = require_selves(exclude_self, indices, len(prototypes))
    total = count_relevant(queries, prototypes)
    if selves is not None:
        indices = indices.gather(1, ranks_of_others(indices, selves))
        total = total - (labels_at(prototypes, selves).eq(queries) & (selves >= 0)).long()
    relevant = labels_at(prototypes, indices).eq(queries[:, None]) & (indices >= 0)
    return Relevance(relevant, total, (indices >= 0).sum(1))


def relevance_to_targets(
    indices: Tensor,
    targets: Tensor | np.ndarray | Sequence[Labels],
    *,
    exclude_self: Labels | None = None,
) -> Relevance:
    """A match is relevant if its prototype is among the targets of the query.

    Args:
        indices: (Q, k) integers, the ranked matches, best first; -1 = none, never relevant.
        targets: as mmpretrain's metrics take them. Either (Q, M), where what is not zero is
            relevant, or for each query a sequence of the relevant prototypes' indices, of any
            length; one that is there twice counts once.
        exclude_self: (Q,) as of ``relevance``.

    Raises:
        TypeError, ValueError: naming the argument, what was expected, and what was given.
    """
    require_indices(indices)
    if isinstance(targets, np.ndarray):
        targets = torch.from_numpy(targets)
    if isinstance(targets, Tensor):
        return _to_multi_hot(indices, targets.to(indices.device), exclude_self)
    return _to_lists(indices, targets, exclude_self)


def ranks_of_others(indices: Tensor, selves: Tensor) -> Tensor:
    """(Q, k - 1) int64: the ranks in ``indices`` (Q, k) of all but ``selves`` (Q,), else but the
    last."""
    found = indices.eq(selves[:, None]) & (selves >= 0)[:, None]
    passed = found.cumsum(1)[:, :-1]  # 1 from the query itself on, before it 0
    return torch.arange(passed.shape[1], device=indices.device) + passed


def count_relevant(query_labels: Tensor, prototype_labels: Tensor) -> Tensor:
    """(Q,) int64: how many of ``prototype_labels`` (M,) equal each of ``query_labels`` (Q,)."""
    ordered = prototype_labels.sort().values
    end = torch.searchsorted(ordered, query_labels, right=True)
    return end - torch.searchsorted(ordered, query_labels)


def labels_at(labels: Tensor, indices: Tensor) -> Tensor:
    """The labels of the prototypes at ``indices``, of any shape; 0 where the index is -1."""
    return F.pad(labels, (0, 1))[indices]


def require_indices(indices: object) -> None:
    if not isinstance(indices, Tensor) or indices.dtype not in (torch.int64, torch.int32):
        got = indices.dtype if isinstance(indices, Tensor) else type(indices).__name__
        raise TypeError(f"indices must be a tensor of int64 or int32; got {got}")
    require_dense("indices", indices, meta_too=True)
    if indices.ndim != 2 or indices.shape[1] < 1:
        raise ValueError(
            f"indices must have shape (queries, k) with k >= 1; got {tuple(indices.shape)}"
        )


def require_labels(
    name: str, value: Labels, device: torch.device, length: int | None = None
) -> Tensor:
    """``value`` as an int64 vector on ``device``, of ``length`` if that is given."""
    labels = as_labels(name, value, device)
    if labels.ndim != 1 or length not in (None, len(labels)):
        expected = "(prototypes,)" if length is None else f"({length},), one for each query"
        raise ValueError(f"{name} must have shape {expected}; got {tuple(labels.shape)}")
    return labels.long()


def as_labels(name: str, value: Labels, device: torch.device | None = None) -> Tensor:
    """A tensor of integers, of any shape; on ``device``, or where they are."""
    try:
        labels = torch.as_tensor(value, device=device)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} must be integers; got {reprlib.repr(value)}") from None
    require_dense(name, labels, meta_too=True)
    if labels.numel() and (labels.is_floating_point() or labels.is_complex()):
        raise TypeError(f"{name} must be integers; got {labels.dtype}")
    return labels


def require_within(name: str, values: Tensor, count: int, least: int = -1) -> None:
    """Where looking costs no wait for a device: ``least`` <= ``values`` < ``count``."""
    if values.device.type == "cpu" and values.numel():
        low, high = (int(v) for v in values.aminmax())
        if low < least or high >= count:
            raise ValueError(
                f"{name} must be at least {least} and below {count}; got {low} to {high}"
            )


def require_selves(exclude_self: Labels | None, indices: Tensor, count: int) -> Tensor | None:
    if exclude_self is None:
        return None
    if indices.shape[1] < 2:
        raise ValueError("exclude_self takes one match away: indices must have k >= 2; got k = 1")
    selves = require_labels("exclude_self", exclude_self, indices.device, len(indices))
    require_within("exclude_self", selves, count)
    return selves


def _to_multi_hot(indices: Tensor, targets: Tensor, exclude_self: Labels | None) -> Relevance:
    if targets.ndim != 2 or len(targets) != len(indices):
        raise ValueError(
            f"targets must have shape ({len(indices)}, prototypes) or be a sequence; "
            f"got {tuple(targets.shape)}"
        )
    require_within("indices", indices, targets.shape[1])
    selves = require_selves(exclude_self, indices, targets.shape[1])
    padded = F.pad(targets != 0, (0, 1))  # -1 is the last, which is never relevant
    total = padded.sum(1)
    if selves is not None:
        indices = indices.gather(1, ranks_of_others(indices, selves))
        total = total - padded.gather(1, (selves % padded.shape[1])[:, None])[:, 0].long()
    relevant = padded.gather(1, indices.long() % padded.shape[1])
    return Relevance(relevant, total, (indices >= 0).sum(1))


def _to_lists(indices: Tensor, targets: Sequence[Labels], exclude_self: Labels | None) -> Relevance:
    if len(targets) != len(indices):
        raise ValueError(f"targets must be of {len(indices)} queries; got {len(targets)}")
    cpu = torch.device("cpu")
    lists = [require_labels(f"targets[{i}]", each, cpu) for i, each in enumerate(targets)]
    flat = torch.cat([torch.zeros(0, dtype=torch.int64), *lists])
    require_within("targets", flat, MAX_ROWS, least=0)
    lengths = torch.tensor([len(each) for each in lists], dtype=torch.int64)
    queries = torch.arange(len(lists)).repeat_interleave(lengths)
    keys = _keys(queries, flat).unique().to(indices.device)
    selves = require_selves(exclude_self, indices, MAX_ROWS)
    rows = torch.arange(len(indices), device=indices.device)
    if selves is not None:
        indices = indices.gather(1, ranks_of_others(indices, selves))
        keys = keys[~torch.isin(keys, _keys(rows, selves)[selves >= 0])]
    found = torch.isin(_keys(rows[:, None], indices.long()), keys) & (indices >= 0)
    total = torch.bincount(keys >> 32, minlength=len(indices))
    return Relevance(found, total, (indices >= 0).sum(1))


def _keys(queries: Tensor, prototypes: Tensor) -> Tensor:
    """One integer for a query and a prototype: prototypes are fewer than 2^32."""
    return (queries << 32) + prototypes
