"""Which sample each row is: ids, the order they give, and what must not be missing or shared."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...kernels.contract.arguments import require_int
from ..batches.forms import Batch
from ..processes import world_size
from .watched import WatchedLoader

UNKNOWN = -1
"""The position of a row that nobody knows."""
_ADVICE = (
    "let it return dict(inputs=[image, ...], data_samples=[DataSample(metainfo=dict(sample_idx=i)),"
    " ...]), with the i that the dataset gives beside each image"
)


class Rows(NamedTuple):
    """Encoded samples: features (n, C), and int64 (n,) ids and positions in the dataset."""

    features: Tensor
    ids: Tensor
    positions: Tensor
    kind: str
    """What the ids are: "sample_idx", "position" or "turn"."""


class Part(NamedTuple):
    """What is known of the rows of one batch."""

    rows: int
    ids: list[int] | None
    positions: list[int] | None
    items: int | None
    """None where one item may be a batch, too."""
    worker: int


def indices_of(batch: Batch, count: int) -> list[int] | None:
    """The ``sample_idx`` of each of ``count`` inputs, wherever the batch keeps them.

    Raises:
        TypeError, ValueError: not one integer from 0 to 2**63 - 1 for each, or only for some.
    """
    column, samples = batch.sample_idx, batch.data_samples
    if column is None and isinstance(samples, Mapping):
        column = samples.get("sample_idx")
    if column is None and isinstance(samples, Sequence):
        column = [_index_in(sample) for sample in samples]
    if column is None:
        return None
    values = list(column) if hasattr(column, "__len__") else [column]
    known = [value for value in values if value is not None]
    if not known:
        return None
    if len(values) != count:
        raise ValueError(f"prototype: a batch of {count} inputs has {len(values)} sample_idxs")
    if len(known) < count:
        raise ValueError(
            "prototype: all samples must have a sample_idx, or none; "
            f"got {len(known)} of {count} in a batch"
        )
    return [_require_index(value) for value in known]


def _index_in(sample: Any) -> Any:
    if isinstance(sample, Mapping):
        return sample.get("sample_idx")
    return getattr(sample, "sample_idx", None)


def _require_index(value: Any) -> int:
    expected = "prototype: sample_idx must be an integer from 0 to 2^63 - 1"
    try:
        index = require_int("sample_idx", value)
    except TypeError:
        raise TypeError(f"{expected}; got {value!r}") from None
    if not 0 <= index <= torch.iinfo(torch.int64).max:
        raise ValueError(f"{expected}; got {index}")
    return index


def number(features: Tensor, parts: Sequence[Part], source: WatchedLoader) -> Rows:
    """Rows with the best ids there are: sample_idx, else positions, else turns.

    Raises:
        ValueError: some have a ``sample_idx`` and some not, or what a batch lacks cannot be known.
    """
    total = len(features)
    known = [i for part in parts for i in part.ids or []]
    if known and len(known) < total:
        raise ValueError(
            f"prototype: all samples must have a sample_idx, or none; got {len(known)} of {total}"
        )
    positions = _positions(parts)
    if known:
        return Rows(features, torch.tensor(known), positions, "sample_idx")
    for part in parts:
        require_all_taken(part)
    if (positions != UNKNOWN).all():
        return Rows(features, positions, positions, "position")
    _require_ordered(source)
    return Rows(features, torch.arange(total), positions, "turn")


def _positions(parts: Sequence[Part]) -> Tensor:
    """Of a batch that lacks an item nobody knows which row is which."""
    found: list[int] = []
    for part in parts:
        positions = part.positions
        known = positions is not None and len(positions) == part.rows
        found += positions if positions is not None and known else [UNKNOWN] * part.rows
    return torch.tensor(found, dtype=torch.int64)


def require_all_taken(part: Part) -> None:
    if part.ids is None and part.items not in (None, part.rows):
        what = "drops" if part.rows < part.items else "makes more of"
        raise ValueError(
            f"prototype: a batch of {part.items} samples gave {part.rows} inputs, and nothing "
            f"says which; if collate_fn {what} samples, {_ADVICE}"
        )


def _require_ordered(source: WatchedLoader) -> None:
    if not source.is_ordered or world_size() > 1:
        raise ValueError(
            "prototype: the order of this DataLoader says nothing about its dataset; give every "
            "sample a sample_idx"
        )


def arrange(rows: Rows, length: int | None) -> tuple[Tensor, Tensor]:
    """One row per id, the first that came, and the ids.

    In the ids' order where they number the dataset's samples, with gaps or without; else in the
    dataset's, and in the ids' again where that is not known.

    Args:
        length: how many samples the dataset has, where it says so.

    Raises:
        ValueError: different samples have the same id.
    """
    ids, order = rows.ids.sort(stable=True)
    _require_own_ids(rows, ids, order)
    first = torch.ones_like(ids, dtype=torch.bool)
    first[1:] = ids[1:] != ids[:-1]
    ids, order = ids[first], order[first]
    numbered = torch.equal(ids, torch.arange(len(ids))) or (
        length is not None and len(ids) < length and int(ids[-1]) < length
    )
    positions = rows.positions[order]
    if not numbered and (positions != UNKNOWN).all():
        by_position = positions.argsort(stable=True)
        ids, order = ids[by_position], order[by_position]
    if torch.equal(order, torch.arange(len(rows.ids))):
        return rows.features, ids
    return rows.features[order.to(rows.features.device)], ids


def _require_own_ids(rows: Rows, ids: Tensor, order: Tensor) -> None:
    """The same id twice must be the same sample twice, as samplers that pad have it."""
    later = (ids[1:] == ids[:-1]).nonzero()[:, 0] + 1
    if rows.kind != "sample_idx" or not len(later):
        return
    one, other = order[later - 1], order[later]
    places = rows.positions[torch.stack([one, other])]
    known = (places != UNKNOWN).all(0)
    device = rows.features.device
    alike = same_rows(rows.features[one.to(device)], rows.features[other.to(device)]).cpu()
    wrong = torch.where(known, places[0] != places[1], ~alike).nonzero()[:, 0]
    if len(wrong):
        at = int(wrong[0])
        pair = places[:, at].tolist()
        where = ", at the positions {} and {}".format(*pair) if known[at] else ""
        raise ValueError(
            "prototype: every sample must have a sample_idx of its own; "
            f"two have {int(ids[later[at]])}{where}"
        )


def same_rows(one: Tensor, other: Tensor) -> Tensor:
    """(n,) whether rows (n, C) are equal but for rounding, which differs from batch to batch."""
    size = torch.maximum(one.abs().amax(1), other.abs().amax(1))
    return (one - other).abs().amax(1) <= size * torch.finfo(one.dtype).eps ** 0.5


def require_complete(got: int, length: int, source: WatchedLoader) -> None:
    if got != length:
        raise ValueError(
            f"prototype: the DataLoader gave {got} distinct samples for the {length} samples of "
            f"its dataset: {source.why_incomplete()}"
        )


def warn_of_dropped(ids: Tensor, length: int | None, dropped: int) -> None:
    """Say how many samples a collate_fn dropped, and which, as far as the ids tell."""
    if length is not None:
        dropped = length - len(ids)
    if dropped < 1:
        return
    which = ""
    if length is not None and int(ids.max()) < length:
        absent = torch.ones(length, dtype=torch.bool)
        absent[ids] = False
        missing = absent.nonzero()[:5, 0].tolist()
        which = f"; missing sample_idx {missing}{' and more' if dropped > 5 else ''}"
    warnings.warn(
        f"prototype: the DataLoader left out {dropped} of {len(ids) + dropped} samples, as a "
        f"collate_fn may that drops unreadable ones{which}",
        stacklevel=2,
    )
