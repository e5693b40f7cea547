"""Which of the ranked matches are relevant to their query, and how many there are to find."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ...kernels.arrays.returned import in_kind_of
from ...kernels.arrays.taken import AnyArray, as_tensor, is_rows
from .labels import (
    Labels,
    labels_at,
    ranks_of_others,
    require_indices,
    require_labels,
    require_selves,
    require_within,
)

MAX_ROWS = 2**32  # of a gallery; so that a query and a row fit into one integer


class Relevance(NamedTuple):
    """What metrics need to know of a batch of ranked matches."""

    relevant: Tensor
    """(Q, k) bool: is the match at this rank relevant? Best first."""
    total: Tensor
    """(Q,) int64: relevant prototypes there are, found or not."""
    retrieved: Tensor
    """(Q,) int64: matches there are, relevant or not; below k where indices were -1."""


def relevance(
    indices: AnyArray,
    query_labels: Labels,
    prototype_labels: Labels,
    *,
    exclude_self: Labels | None = None,
) -> Relevance:
    """A match is relevant if its prototype has the label of the query.

    Args:
        indices: (Q, k) integers, the ranked matches, best first; -1 = none, never relevant. A
            tensor, or any array that ``flashmatch.topk`` takes; the answer is of the same kind.
        query_labels: (Q,) integers, of any kind: a tensor, array, column or sequence.
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
    given, indices = indices, require_indices(indices)
    queries = require_labels("query_labels", query_labels, indices.device, len(indices))
    prototypes = require_labels("prototype_labels", prototype_labels, indices.device)
    require_within("indices", indices, len(prototypes))
    selves = require_selves(exclude_self, indices, len(prototypes))
    total = count_relevant(queries, prototypes)
    if selves is not None:
        indices = indices.gather(1, ranks_of_others(indices, selves))
        total = total - (labels_at(prototypes, selves).eq(queries) & (selves >= 0)).long()
    relevant = labels_at(prototypes, indices).eq(queries[:, None]) & (indices >= 0)
    return in_kind_of(given, Relevance(relevant, total, (indices >= 0).sum(1)))


def relevance_to_targets(
    indices: AnyArray,
    targets: AnyArray | Sequence[Labels],
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
    given, indices = indices, require_indices(indices)
    if is_rows(targets):
        found = _to_lists(indices, targets, exclude_self)
    else:
        targets = as_tensor("targets", targets).to(indices.device)
        found = _to_multi_hot(indices, targets, exclude_self)
    return in_kind_of(given, found)


def count_relevant(query_labels: Tensor, prototype_labels: Tensor) -> Tensor:
    """(Q,) int64: how many of ``prototype_labels`` (M,) equal each of ``query_labels`` (Q,)."""
    ordered = prototype_labels.sort().values
    end = torch.searchsorted(ordered, query_labels, right=True)
    return end - torch.searchsorted(ordered, query_labels)


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
