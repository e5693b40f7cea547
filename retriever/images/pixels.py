"""The pixels of whatever is handed in for an image: a path, a PIL image, an array, a tensor."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from ...kernels.contract.arguments import require_dense
from .greys import spread
from .read import UnreadableImage, read_image, rgb_of, shown

KINDS = "a path, a PIL image, an array (H, W) or (H, W, 1 to 4), a tensor (C, H, W)"


def as_stack(inputs: Tensor) -> Tensor:
    """One image (C, H, W) as a stack of it; images (N, C, H, W) and rows (N, C) as they are."""
    require_dense("inputs", inputs)
    if inputs.ndim == 0:
        raise ValueError(
            "inputs must be (N, C, H, W) or (C, H, W) where it is a tensor; got shape ()"
        )
    return inputs[None] if inputs.ndim == 3 else inputs


def read_each(images: Sequence[Any], inputs: Any) -> list[Tensor | np.ndarray | Image.Image]:
    """``read_pixels`` of each of ``inputs``, or of ``inputs`` itself where it is the only one."""
    is_alone = len(images) == 1 and images[0] is inputs
    return [
        read_pixels(image, "inputs" if is_alone else f"inputs[{i}]")
        for i, image in enumerate(images)
    ]


def read_pixels(image: Any, argument: str) -> Tensor | np.ndarray | Image.Image:
    """A path or PIL image as RGB; an array (H, W) or (H, W, 3); a tensor as it is.

    Grey arrays stay grey, and are spread over 0..255 as PIL images are unless they are uint8. Those
    of booleans become 0 and 255, colours of 16 bits lose their lower byte, as Pillow reads them
    from files, and other colours are taken to be in 0..255. Alpha goes on white.

    Raises:
        TypeError: no image. ValueError: a shape or values that none has, an unreadable file.
        FileNotFoundError: no such file.
    """
    if isinstance(image, np.ndarray):
        return _array_pixels(image, argument)
    if isinstance(image, Tensor):
        if image.numel() == 0 or image.ndim == 0:
            raise ValueError(f"{argument} must have pixels; got shape {tuple(image.shape)}")
        return image
    if not isinstance(image, (str, os.PathLike, Image.Image)):
        kinds = KINDS if argument.endswith("]") else f"{KINDS}, or a list of these"
        hint = "; PIL.Image.open(io.BytesIO(...)) opens them" if isinstance(image, bytes) else ""
        raise TypeError(f"{argument} must be {kinds}; got {type(image).__name__}{hint}")
    try:
        pixels = read_image(image)
    except UnreadableImage as error:
        kind = FileNotFoundError if isinstance(error.__cause__, FileNotFoundError) else ValueError
        message = f"{argument} must be a readable image; got {shown(image)}: {error.reason}"
        raise kind(message) from error
    if 0 in pixels.size:
        raise ValueError(f"{argument} must have pixels; got {shown(image)} of size {pixels.size}")
    return pixels


def _array_pixels(array: np.ndarray, argument: str) -> np.ndarray:
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{argument} must hold real numbers; got an array of {array.dtype}")
    if array.ndim not in (2, 3) or array.shape[2:] not in ((), (1,), (2,), (3,), (4,)):
        raise ValueError(
            f"{argument} must be (H, W) or (H, W, channels) with 1 to 4 channels where it is an "
            f"array; got shape {array.shape}"
        )
    if array.size == 0:
        raise ValueError(f"{argument} must have pixels; got shape {array.shape}")
    if array.shape[2:] == (1,):
        array = array[..., 0]
    is_absent = np.ma.getmaskarray(array) if isinstance(array, np.ma.MaskedArray) else None
    values = np.asarray(array)
    if values.dtype == bool:
        values = np.uint8(255) * values
    if values.ndim == 2:
        return values if values.dtype == np.uint8 else spread(values, is_absent)
    return _colours(values, argument)


def _colours(values: np.ndarray, argument: str) -> np.ndarray:
    """(H, W, 2 to 4) as (H, W, 3)."""
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        values = (values >> 8).astype(np.uint8)
    if values.shape[2] != 3:
        if values.dtype != np.uint8:
            raise ValueError(
                f"{argument} must be uint8 or uint16 where it is an array with an alpha channel; "
                f"got {values.dtype}"
            )
        return np.asarray(rgb_of(Image.fromarray(np.ascontiguousarray(values))))
    if values.dtype == np.uint8:
        return values
    return np.nan_to_num(values.astype(np.float32), copy=False, nan=0.0, posinf=255.0, neginf=0.0)
