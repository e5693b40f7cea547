"""What a part of a batch can be: one image, a stack of them, a column of what is known of each."""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def as_list(inputs: Any) -> Any:
    """A list of a sequence, with matrices as grey images; anything else as it is."""
    if not isinstance(inputs, (list, tuple)):
        return inputs
    return [item[None] if isinstance(item, Tensor) and item.ndim == 2 else item for item in inputs]


def ndim_of(value: Any) -> int:
    return value.ndim if isinstance(value, (Tensor, np.ndarray)) else 0


def is_path(value: Any) -> bool:
    return isinstance(value, (str, PathLike))


def is_stack(value: Any) -> bool:
    return ndim_of(value) > 3 or (ndim_of(value) == 2 and isinstance(value, Tensor))


def is_image(value: Any) -> bool:
    if is_path(value) or isinstance(value, Image.Image):
        return True
    return ndim_of(value) in (1, 3) or (ndim_of(value) == 2 and isinstance(value, np.ndarray))


def is_sequence(value: Any) -> bool:
    return isinstance(value, (list, tuple)) or ndim_of(value) > 0


def has_length(column: Any, length: int) -> bool:
    if isinstance(column, Mapping):
        return all(has_length(part, length) for part in column.values())
    return is_sequence(column) and len(column) == length


def _kind(value: Any) -> tuple[Any, ...]:
    """What images of one list have in common."""
    if isinstance(value, Tensor):
        return Tensor, value.ndim
    if isinstance(value, np.ndarray):
        return (np.ndarray,)
    return (Image.Image if isinstance(value, Image.Image) else is_path(value),)


def is_list_of_images(value: Any) -> bool:
    if not isinstance(value, (list, tuple)) or not value:
        return False
    known = all(is_image(item) or ndim_of(item) > 0 for item in value)
    return known and len({_kind(item) for item in value}) == 1


def are_images(data: Sequence[Any]) -> bool:
    """Images all, and of one kind: tensors and arrays with equal channels, so no masks."""
    if not all(is_image(item) for item in data) or not is_list_of_images(data):
        return False
    return ndim_of(data[0]) == 0 or len({_layout(item) for item in data}) == 1


def _layout(value: Tensor | np.ndarray) -> tuple[Any, ...]:
    if isinstance(value, np.ndarray) and value.ndim > 1:
        return value.ndim, value.dtype, value.shape[2:]
    return value.ndim, value.dtype, value.shape[0]


def are_alike_stacks(data: Sequence[Any]) -> bool:
    """Several stacks of the same channels: batches of views, or images that are stacks of one."""
    if len(data) < 2 or not all(is_stack(item) for item in data):
        return False
    channel = 1 if isinstance(data[0], Tensor) else -1
    return len({(type(item), item.ndim, item.shape[channel]) for item in data}) == 1


def shown(data: Any) -> str:
    if isinstance(data, (list, tuple)):
        parts = [_part(item) for item in data[:3]] + ["..."] * (len(data) > 3)
        return f"{type(data).__name__} ({', '.join(parts)})" if data else "an empty sequence"
    return _part(data)


def _part(item: Any) -> str:
    if isinstance(item, (Tensor, np.ndarray)):
        return f"{type(item).__name__} of shape {tuple(item.shape)}"
    if isinstance(item, (list, tuple)):
        return f"{type(item).__name__} of {len(item)}"
    return "None" if item is None else type(item).__name__


def may_be_stack(image: Any, beside: Any) -> bool:
    """Whether an array taken for one image may as well be one for each of what is beside it."""
    numbers = is_sequence(beside) and ndim_of(beside) < 2
    return ndim_of(image) > 0 and numbers and len(beside) == len(image) > 1


def is_of_one(image: Any, value: Any) -> bool:
    """Whether this is one image, and that what is known of it: not another, nor one unread."""
    if value is None or isinstance(value, Image.Image) or is_path(value):
        return False
    if ndim_of(image) == 2 and isinstance(image, Tensor):
        return not is_sequence(value)
    return is_image(image) and ndim_of(value) < min(2, ndim_of(image) or 2)


def require_channels_first(inputs: Any, name: str) -> None:
    """Refuse the bytes of colours (H, W, C) that a tensor holds, as torch makes them of arrays.

    Raises:
        ValueError: so many channels, and so few columns, as no image has.
    """
    for image in inputs if isinstance(inputs, (list, tuple)) else [inputs]:
        if not isinstance(image, Tensor) or image.dtype != torch.uint8 or image.ndim < 3:
            continue
        channels, height, width = image.shape[-3:]
        if width in (3, 4) and min(channels, height) > 4:
            raise ValueError(
                f"{name} must have images (C, H, W) where they are tensors; got {_part(image)}, "
                "which seem to be (H, W, C): permute them, or leave them arrays"
            )
