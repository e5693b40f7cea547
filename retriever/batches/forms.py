"""Batches as loaders give them: which part is the images, which the samples that belong to them.

A tensor of three dimensions is one image (C, H, W) and an array one of (H, W) or (H, W, C);
whatever has one dimension more is a stack of them. A matrix is a stack of vectors, but in a list it
is a grey image. What can be read in two ways all the same is refused, since either guess would give
wrong rows without a word.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from os import PathLike
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import default_collate

from . import parts
from .collate import collate

INPUT_KEYS = ("inputs", "image", "images", "img", "imgs", "pixel_values")
SAMPLE_KEYS = ("data_samples", "sample_idx")
FORMS = (
    "a stack (N, C, H, W) or vectors (N, C), a list of images, a list of (image, ...) pairs or of "
    "dicts, (inputs, labels, ...), or dict(inputs=images, data_samples=samples)"
)
_LACKS = "is it one image (C, H, W), or a stack that lacks a dimension?"


class Batch(NamedTuple):
    inputs: Any
    """A stack of N, or a list of N images."""
    data_samples: Any
    """One for each input, in a sequence, a tensor or a dict of columns; or None."""
    sample_idx: Any
    """Likewise, where the batch names it beside its samples."""


def as_batch(data: Any) -> dict[str, Any]:
    """dict(inputs=, data_samples=) from any form of batch; ``inputs`` is a stack or a list.

    Taken are a stacked tensor or array; one image, or a list of them; a list of (image, ...) pairs,
    or of dicts; (inputs, labels, ...), as torch's ``default_collate`` and ours give it; one
    (image, label); and whatever has ``inputs`` (or one of ``INPUT_KEYS``) as a key or an attribute,
    with ``data_samples`` and ``sample_idx`` beside it. A tuple of lists holds columns.

    Raises:
        TypeError: none of these.
        ValueError: nothing in it, no known key, several readings, or bytes (H, W, C) in a tensor.
    """
    batch = read_batch(data)
    samples = batch.data_samples
    if samples is None and batch.sample_idx is not None:
        samples = {"sample_idx": batch.sample_idx}
    return {"inputs": batch.inputs, "data_samples": samples}


def as_images(inputs: Any) -> Tensor | list[Any]:
    """A stacked tensor as it is, vectors in a list as one; anything else as a list of images.

    Raises:
        ValueError: vectors of several lengths.
    """
    if isinstance(inputs, Tensor):
        return inputs
    if isinstance(inputs, (list, tuple)):
        are_vectors = all(isinstance(x, Tensor) and x.ndim == 1 for x in inputs)
        return _stacked_vectors(inputs) if inputs and are_vectors else list(inputs)
    if isinstance(inputs, np.ndarray) and inputs.ndim == 4:
        return list(inputs)
    return [inputs]


def _stacked_vectors(vectors: Sequence[Tensor]) -> Tensor:
    lengths = sorted({len(vector) for vector in vectors})
    if len(lengths) > 1:
        raise ValueError(f"inputs must have one length where they are vectors; got {lengths}")
    return torch.stack(list(vectors))


def gives_columns(collate_fn: Callable[..., Any] | None) -> bool:
    """Whether batches of ``collate_fn`` are columns for certain: it is torch's, or ours."""
    function = collate_fn.func if isinstance(collate_fn, partial) else collate_fn
    return function in (default_collate, collate)


def read_batch(data: Any, name: str = "data", columns: bool | None = None) -> Batch:
    """What ``as_batch`` takes, with the ``sample_idx`` that stand beside the samples.

    Args:
        name: what errors call ``data``.
        columns: ``gives_columns`` of whatever made the batch; None where it came from elsewhere: a
            tuple of lists holds columns then, as ``collate`` has it.

    Raises:
        TypeError, ValueError: as ``as_batch``.
    """
    batch = _read(data, name, columns)
    parts.require_channels_first(batch.inputs, name)
    return batch


def _read(data: Any, name: str, columns: bool | None) -> Batch:
    fields = _fields(data)
    if fields is not None:
        return _from_fields(fields, name, bool(columns))
    if isinstance(data, (list, tuple)):
        return _from_columns(data, name) if columns else _from_sequence(data, name, columns)
    if parts.is_stack(data) or (columns and parts.ndim_of(data)):
        return Batch(_stack(data, name), None, None)
    if parts.is_image(data) and parts.ndim_of(data) != 1:
        return Batch([data], None, None)
    raise TypeError(f"{name} must be {FORMS}; got {parts.shown(data)}")


def _fields(data: Any) -> dict[Any, Any] | None:
    """The parts of a dict, or of an object with known names; None of anything else."""
    if isinstance(data, Mapping):
        return dict(data)
    if isinstance(data, (Tensor, np.ndarray, Image.Image, str, PathLike)):
        return None
    found = {key: getattr(data, key) for key in (*INPUT_KEYS, *SAMPLE_KEYS) if hasattr(data, key)}
    return found if any(key in found for key in INPUT_KEYS) else None


def _inputs_of(fields: Mapping[Any, Any], name: str) -> Any:
    keys = [key for key in INPUT_KEYS if key in fields]
    if len(keys) != 1 and "inputs" not in keys:
        raise ValueError(
            f"{name} must have the key 'inputs', or one of {', '.join(INPUT_KEYS[1:])}; "
            f"got the keys {sorted(map(str, fields))}"
        )
    inputs = fields[keys[0]]
    if inputs is None or isinstance(inputs, (int, float)):
        raise TypeError(f"{name}[{keys[0]!r}] must hold images; got {parts.shown(inputs)}")
    return inputs


def _from_fields(fields: Mapping[Any, Any], name: str, columns: bool) -> Batch:
    inputs, beside = _inputs_of(fields, name), [fields.get(key) for key in SAMPLE_KEYS]
    if not columns and parts.is_image(inputs):
        if any(parts.may_be_stack(inputs, value) for value in beside):
            got = ", ".join(f"{key!r}: {parts.shown(value)}" for key, value in fields.items())
            raise ValueError(f"{name} must be {FORMS}; got {{{got}}}: {_LACKS}")
        return Batch([inputs], *map(_one_each, beside))
    return Batch(_stack(inputs, name) if columns else parts.as_list(inputs), *beside)


def _from_columns(data: Sequence[Any], name: str) -> Batch:
    if data and parts.is_path(data[0]):
        return Batch(list(data), None, None)
    if not data or not parts.is_sequence(data[0]):
        raise TypeError(f"{name} must be {FORMS}; got {parts.shown(data)}")
    return Batch(_stack(data[0], name), data[1] if len(data) > 1 else None, None)


def _from_sequence(data: Sequence[Any], name: str, columns: bool | None) -> Batch:
    refused = f"{name} must be {FORMS}; got {parts.shown(data)}"
    if not data:
        raise ValueError(refused)
    rows = [fields for fields in map(_fields, data) if fields is not None]
    if len(rows) == len(data):
        return _from_rows(rows, name)
    if parts.are_images(data):
        return Batch(list(data), None, None)
    readings = list(_readings(data))
    if columns is None and type(data) is tuple and all(type(part) is list for part in data):
        readings = readings[:1]
    if len(readings) > 1 or parts.are_alike_stacks(data):
        raise ValueError(f"{refused}: are these images, or samples one after another?")
    if readings:
        return readings[0]
    first, others = data[0], data[1:]
    if any(parts.may_be_stack(first, value) for value in others):
        raise ValueError(f"{refused}: {_LACKS}")
    if others and all(parts.is_of_one(first, value) for value in others):
        return Batch(parts.as_list([first]), _one_each(others[0]), None)
    raise TypeError(refused)


def _readings(data: Sequence[Any]) -> Iterator[Batch]:
    """As columns, then as pairs."""
    first = data[0]
    many = parts.is_stack(first) or parts.is_list_of_images(first)
    if many and all(parts.has_length(column, len(first)) for column in data[1:]):
        yield Batch(parts.as_list(first), data[1] if len(data) > 1 else None, None)
        if len(data) == len(first) == 1:  # there is no difference
            return
    if all(isinstance(item, (list, tuple)) and len(item) == len(first) > 0 for item in data):
        images = [item[0] for item in data]
        if parts.is_list_of_images(images):
            samples = [item[1] for item in data] if len(first) > 1 else None
            yield Batch(parts.as_list(images), samples, None)


def _from_rows(rows: list[dict[Any, Any]], name: str) -> Batch:
    """One dict for each image."""
    images = []
    for row in rows:
        image = _inputs_of(row, f"{name}: each item")
        if isinstance(image, (list, tuple)) and len(image) == 1:
            image = image[0]
        if not parts.is_image(image) and parts.ndim_of(image) != 2:
            raise ValueError(f"{name}: each item must hold one image; got {parts.shown(image)}")
        images.append(image)
    samples, indices = ([row.get(key) for row in rows] for key in SAMPLE_KEYS)
    return Batch(parts.as_list(images), _unless_absent(samples), _unless_absent(indices))


def _unless_absent(column: list[Any]) -> list[Any] | None:
    return None if all(value is None for value in column) else column


def _one_each(value: Any) -> Any:
    """What belongs to one image, as a sequence of one."""
    return value if value is None or (parts.is_sequence(value) and len(value) == 1) else [value]


def _stack(inputs: Any, name: str) -> Any:
    """Inputs that are a column. Greys (N, H, W) become a list, lest they be taken for one image."""
    if isinstance(inputs, (Tensor, np.ndarray)):
        if inputs.ndim < 2:
            raise ValueError(f"{name} must be {FORMS}; got numbers, {parts.shown(inputs)}")
        return parts.as_list(list(inputs)) if inputs.ndim == 3 else inputs
    return parts.as_list(inputs)
