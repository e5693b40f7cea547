"""Labels and ranked indices as arguments, and leave-one-out: what metrics and votes both take."""

import reprlib

import torch
from torch import Tensor
from torch.nn import functional as F

from ...kernels.arrays.taken import AnyArray, as_tensor
from ...kernels.contract.arguments import require_dense

Labels = AnyArray
"""Integers: a tensor, an array, a column or a sequence."""


def ranks_of_others(indices: Tensor, selves: Tensor) -> Tensor:
    """(Q, k - 1) int64: the ranks in ``indices`` (Q, k) of all but ``selves`` (Q,), else but the
    last."""
    found = indices.eq(selves[:, None]) & (selves >= 0)[:, None]
    passed = found.cumsum(1)[:, :-1]  # 1 from the query itself on, before it 0
    return torch.arange(passed.shape[1], device=indices.device) + passed


def labels_at(labels: Tensor, indices: Tensor) -> Tensor:
    """The labels of the prototypes at ``indices``, of any shape; 0 where the index is -1."""
    return F.pad(labels, (0, 1))[indices]


def require_indices(indices: AnyArray) -> Tensor:
    """``indices`` as a tensor (Q, k) of int64 or int32."""
    indices = as_tensor("indices", indices)
    if indices.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"indices must be a tensor of int64 or int32; got {indices.dtype}")
    require_dense("indices", indices, meta_too=True)
    if indices.ndim != 2 or indices.shape[1] < 1:
        raise ValueError(
            f"indices must have shape (queries, k) with k >= 1; got {tuple(indices.shape)}"
        )
    return indices


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
        labels = as_tensor(name, value)
        labels = labels if device is None else labels.to(device)
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
