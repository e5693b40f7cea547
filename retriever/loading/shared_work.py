"""Streams that several workers read: each must give a part of its own, which only the rows show."""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from ...kernels import topk
from .numbering import Part, same_rows

_LOOKED_AT = 64
_REMEDY = (
    "share it between them in its __iter__, by torch.utils.data.get_worker_info(), or use "
    "num_workers=1, or give every sample a sample_idx"
)


def require_shared_work(features: Tensor, parts: Sequence[Part], length: int | None) -> None:
    """Refuse rows (n, C) of a stream that each of several workers gave whole.

    Two things tell: more samples than the dataset says it has, and workers that gave the same rows.
    A dataset that has as many as it says is believed.

    Raises:
        ValueError: either.
    """
    workers = torch.tensor([part.worker for part in parts for _ in range(part.rows)])
    names = workers.unique().tolist()
    items = sum(1 if part.items is None else part.items for part in parts)
    if len(names) < 2 or items == length:
        return
    if length is not None and items > length:
        raise ValueError(
            f"prototype: {len(names)} workers gave {items} samples of an IterableDataset that says "
            f"it has {length}; {_REMEDY}"
        )
    shares = [features[(workers == name).to(features.device)] for name in names]
    if len({len(share) for share in shares}) > 1:
        return
    first, *others = shares
    if not all(_is_among(share, first) and _is_among(first, share) for share in others):
        return
    found = f"prototype: each of {len(names)} workers gave the same {len(first)} samples"
    if same_rows(first, first[:1].expand_as(first)).all():  # as black images might be
        warnings.warn(
            f"{found} of an IterableDataset: if these are too many, {_REMEDY}", stacklevel=2
        )
        return
    raise ValueError(
        f"{found} of an IterableDataset, which would all be there again; {_REMEDY}; if they are "
        "meant to be the same, give it a __len__ that says how many there are in all"
    )


def _is_among(share: Tensor, whole: Tensor) -> bool:
    """Whether rows (n, C), of which some are looked at, are rows of ``whole`` in any order."""
    at = torch.linspace(0, len(share) - 1, min(len(share), _LOOKED_AT)).long().to(share.device)
    looked_at = share[at]
    if same_rows(looked_at, whole[at]).all():
        return True
    if not (looked_at.isfinite().all() and whole.isfinite().all()):
        return False
    nearest = topk(looked_at, whole, 1, metric="l2").indices[:, 0]
    return bool(same_rows(looked_at, whole[nearest]).all())
