"""Prototypes from a DataLoader: encode every batch, put every row where it belongs, once.

A sample's id is its ``sample_idx``; without any, its position in the dataset, read off the sampler,
so that shuffling does no harm; in an iterable dataset, whose positions nobody knows, its turn. Ids
make repetitions harmless (the first one stays) and gaps visible, in one process as in many. A
collate_fn may drop samples where ids say which are left.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader

from ...kernels.notebook.bars import bar
from ..batches.forms import Batch, gives_columns, read_batch
from ..model.features import require_row_each
from ..processes import gather_ragged, rank, world_size
from . import numbering
from .numbering import Part, Rows
from .shared_work import require_shared_work
from .watched import WatchedLoader, name_samples

Encode = Callable[[dict[str, Any]], Tensor]


def encode_loader(loader: DataLoader, encode: Encode, progress: bool) -> tuple[Tensor, Tensor]:
    """Features (M, C) and ids (M,) int64 of all samples of ``loader``, over all processes.

    If the ids number the samples of the dataset, gaps included, the rows are in their order.
    Otherwise (a Subset whose samples know their place in the whole, say) they are in the dataset's,
    or if that is not known in the ids'. Holds the features twice for a moment.

    Warns (in the first process) of samples that a collate_fn dropped.

    Args:
        encode: batch dict(inputs=, data_samples=) -> features (n, C).
        progress: draw a bar (in the first process only).

    Raises:
        TypeError: batches of no known form, or a ``sample_idx`` that is no integer.
        ValueError: no samples; batches of several readings; some with ``sample_idx`` and some
            without; samples that share one; dropped ones without; a sampler that leaves out samples
            of the dataset; no known order; workers that repeat a stream.
    """
    source = WatchedLoader(loader)
    rows, lost, asked = _together(source, encode, progress and rank() == 0)
    if rows is None:
        dropped = f": its collate_fn dropped all of {lost}" if lost else ""
        raise ValueError(f"prototype: the DataLoader gave no samples{dropped}")
    length = source.length
    features, ids = numbering.arrange(rows, length)
    if asked is not None and length is not None:
        numbering.require_complete(len(asked.intersection(range(length))), length, source)
    elif rows.kind == "turn" and length is not None and source.is_batched and not source.is_stream:
        numbering.require_complete(len(ids), length, source)
    if rows.kind == "sample_idx" and rank() == 0:
        numbering.warn_of_dropped(ids, length, lost)
    return features, ids


def _together(
    source: WatchedLoader, encode: Encode, progress: bool
) -> tuple[Rows | None, int, set[int] | None]:
    """The rows of all processes, how many items they lack, and the positions asked for, if known.

    Whatever was wrong in one process is raised in every one.
    """
    if world_size() == 1:
        rows, lost = _encode_batches(source, encode, progress)
        return rows, lost, None if source.positions is None else set(source.positions)
    error: Exception | None = None
    rows, lost = None, 0
    try:
        rows, lost = _encode_batches(source, encode, progress)
    except Exception as raised:
        error = raised  # the others would wait for ever
    facts: list[Any] = [None] * world_size()
    shape = None if rows is None else (len(rows.ids), rows.features.shape[1], rows.kind)
    trouble = None if error is None else f"{type(error).__name__}: {error}"
    dist.all_gather_object(facts, (trouble, shape, lost, source.positions))
    if error is not None:
        raise error
    for process, (trouble, *_) in enumerate(facts):
        if trouble is not None:
            raise ValueError(f"prototype: process {process} of {world_size()} had {trouble}")
    asked = [positions for *_, positions in facts]
    known = None not in asked
    lost = sum(fact[2] for fact in facts)
    return _gather(rows, [fact[1] for fact in facts]), lost, set().union(*asked) if known else None


def _encode_batches(
    source: WatchedLoader, encode: Encode, progress: bool
) -> tuple[Rows | None, int]:
    """This process's rows, and how many items fewer or more went in."""
    features: list[Tensor] = []
    parts: list[Part] = []
    columns = gives_columns(source.loader.collate_fn)
    how = {"total": source.batches, "disable": not progress, "leave": False}
    for data, positions, items, worker in bar(source, "encoding prototypes", **how):
        batch = _read(data, columns)
        count = _count(batch)
        part = Part(count, numbering.indices_of(batch, count), positions, items, worker)
        parts.append(part)
        if count:
            numbering.require_all_taken(part)
            features.append(_encoded(batch, part, encode))
            _require_width(features)
    lost = sum(part.items - part.rows for part in parts if part.items)
    if not features:
        return None, lost
    rows = numbering.number(torch.cat(features), parts, source)
    if rows.kind == "turn" and source.is_stream:
        require_shared_work(rows.features, parts, source.length)
    return rows, lost


def _read(data: Any, columns: bool) -> Batch:
    """A batch; an empty one, or None, if nothing of it was left."""
    if data is None or (isinstance(data, (list, tuple)) and not data):
        return Batch([], None, None)
    return read_batch(data, "prototype: a batch of the DataLoader", columns)


def _count(batch: Batch) -> int:
    inputs = batch.inputs
    if isinstance(inputs, Mapping) and inputs:
        inputs = next(iter(inputs.values()))
    if not hasattr(inputs, "__len__"):
        raise TypeError(
            "prototype: inputs of a batch must be a stack or a list of images; "
            f"got {type(inputs).__name__}"
        )
    return len(inputs)


def _encoded(batch: Batch, part: Part, encode: Encode) -> Tensor:
    try:
        features = encode({"inputs": batch.inputs, "data_samples": batch.data_samples})
    except Exception as error:
        name_samples(error, "encoding", part.positions)
        raise
    require_row_each(features, part.rows, "prototype: ")
    return features


def _require_width(features: list[Tensor]) -> None:
    if features[-1].shape[1] != features[0].shape[1]:
        raise ValueError(
            "prototype: image_encoder must give equally many channels for every batch; "
            f"got {features[0].shape[1]} and {features[-1].shape[1]}"
        )


def _gather(rows: Rows | None, shapes: list[Any]) -> Rows | None:
    """Every process's rows, in order of rank, in every process; all must call this."""
    present = [shape for shape in shapes if shape is not None]
    if not present:
        return None
    if len({shape[1:] for shape in present}) > 1:
        raise ValueError(
            f"prototype: all processes must give equally wide features and the same kind of id; "
            f"got (rows, channels, kind) = {present}"
        )
    _, channels, kind = present[0]
    counts = [shape[0] if shape else 0 for shape in shapes]
    if rows is None:
        none = torch.empty(0, dtype=torch.int64)
        rows = Rows(torch.empty(0, channels), none, none, kind)
    return Rows(*(gather_ragged(part, counts) for part in rows[:3]), kind=kind)
