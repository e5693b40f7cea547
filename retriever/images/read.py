"""What an image is, and its pixels: one reading for galleries, queries, loaders and examples.

What comes out is upright, of 8 bits a channel, and on white where it was transparent. A file and
the PIL image or array of the same file give the same pixels.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from textwrap import shorten
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor

from ..kernels._checks import require_dense
from .names import printable, quoted

# Pillow knows many more, and asks the content, not the name: an EPS file would reach Ghostscript.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
KINDS = "a path, a PIL image, an array (H, W) or (H, W, 1 to 4), a tensor (C, H, W)"
LONGEST_REASON = 200  # characters; some decoders quote what they were given
BLOCK_PIXELS = 1 << 18  # spread at a time
GDAL_NODATA = 42113  # the TIFF tag with the value, as text, of pixels that hold no measurement


class UnreadableImage(ValueError):
    """No pixels can be had from a file, or from an opened image. ``reason`` is one printable line.

    ``__cause__`` is what the system or the decoder raised.
    """

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason or message


def read_image(source: str | os.PathLike | Image.Image, max_side: int | None = None) -> Image.Image:
    """An image as upright RGB, transparency on white, reduced to ``max_side`` pixels a side.

    A file gives its first frame, a PIL image the one it shows; that image is left as it is. EXIF
    orientation is followed. Greys of more than 8 bits have no fixed black and white: a scan may
    fill 16 bits and a radiograph 12 of them, and a depth map is in metres. Their least value
    becomes 0 and their greatest 255, and an image of one value is black. Neither NaN, infinity, a
    transparent grey nor the TIFF's GDAL_NODATA takes part in that range; what lies outside it is
    clamped to it, and NaN is 0.

    Files are of ``FORMATS``. They are decoded in full even where they are reduced: a JPEG decoder
    that reduces on its way gives other pixels than an opened image has.

    Raises:
        UnreadableImage: whatever the system or a decoder raises, but for MemoryError.
    """
    with _reasons_of(source):
        if isinstance(source, Image.Image):
            image = _rgb(source)
        else:
            with open_image(source) as file:
                image = _rgb(file)
        if max_side is not None:
            image.thumbnail((max_side, max_side), Image.Resampling.BICUBIC)
        return image


def open_image(path: str | os.PathLike) -> Image.Image:
    """The file, of one of ``FORMATS``, with no pixels read.

    Raises:
        UnreadableImage: not such a file.
    """
    with _reasons_of(path):
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for a writer
            raise OSError("it is no regular file")
        Image.init()  # so that it is known which formats this Pillow has
        return Image.open(path, formats=[name for name in FORMATS if name in Image.OPEN])


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
        message = f"{argument} must be a readable image; got {_shown(image)}: {error.reason}"
        raise kind(message) from error
    if 0 in pixels.size:
        raise ValueError(f"{argument} must have pixels; got {_shown(image)} of size {pixels.size}")
    return pixels


@contextmanager
def _reasons_of(source: str | os.PathLike | Image.Image) -> Iterator[None]:
    """Whatever is raised inside as UnreadableImage, lack of memory aside."""
    try:
        yield
    except (MemoryError, UnreadableImage):
        raise
    except Exception as error:  # decoders raise anything: struct.error, TypeError, RuntimeError
        reason = _reason(error)
        raise UnreadableImage(f"{_shown(source)}: {reason}", reason) from error


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        text = f"cannot identify it as one of {', '.join(FORMATS)}"
    elif isinstance(error, OSError):
        text = error.strerror or str(error)
    else:
        text = f"{type(error).__name__}: {error}"
    return printable(shorten(text, LONGEST_REASON, placeholder=" ..."))


def _shown(source: str | os.PathLike | Image.Image) -> str:
    if isinstance(source, Image.Image):
        return f"a PIL image of mode {source.mode}"
    return quoted(source)


def _rgb(image: Image.Image) -> Image.Image:
    """The frame that ``image`` shows, in an image of its own that knows nothing else."""
    upright = ImageOps.exif_transpose(image)  # loads it
    if upright.mode[0] in "IF":
        upright = Image.fromarray(_grey_of(upright, _no_data(image)))
    if upright.mode == "La":  # Pillow converts it to nothing else
        upright = upright.convert("LA")
    if upright.has_transparency_data:
        white = Image.new("RGBA", upright.size, "white")
        upright = Image.alpha_composite(white, upright.convert("RGBA"))
    rgb = upright if upright.mode == "RGB" else upright.convert("RGB")
    rgb.info = {}  # what it says of colours or of a side that is up is done
    return rgb


def _grey_of(image: Image.Image, no_data: float) -> np.ndarray:
    """(H, W) uint8 from a grey of more than 8 bits. ``no_data`` may be NaN."""
    values, colour = np.asarray(image), image.info.get("transparency")
    transparent = values == (colour if isinstance(colour, int) else np.nan)
    grey = _spread(values, transparent | (values == no_data))
    return np.where(transparent, np.uint8(255), grey)


def _no_data(image: Image.Image) -> float:
    """GDAL_NODATA of a TIFF, as the image's pixels have it, else NaN."""
    with suppress(ValueError, TypeError, OverflowError), np.errstate(over="ignore"):
        value = float(str(getattr(image, "tag_v2", {}).get(GDAL_NODATA)).strip(" \0"))
        return float(np.float32(value)) if image.mode == "F" else value
    return np.nan


def _spread(values: np.ndarray, is_absent: np.ndarray | None = None) -> np.ndarray:
    """(H, W) as uint8: the least is 0, the greatest 255, of those finite and not absent."""
    rows = max(1, BLOCK_PIXELS // max(1, values.shape[1]))  # float64 of all would take much memory
    blocks = [slice(start, start + rows) for start in range(0, len(values), rows)]
    limits = [_limits(values[b], None if is_absent is None else is_absent[b]) for b in blocks]
    low = min((low for low, _ in limits), default=np.inf)
    high = max((high for _, high in limits), default=-np.inf)
    shown = np.zeros(values.shape, np.uint8)
    if low < high:
        for block in blocks:
            shown[block] = _scaled(values[block], low, high)
    return shown


def _limits(values: np.ndarray, is_absent: np.ndarray | None) -> tuple[float, float]:
    """The least and the greatest that are there; infinity and minus infinity where none are."""
    if values.dtype.kind == "f" or is_absent is not None:
        values = values.astype(np.float64)
        present = np.isfinite(values)
        values = values[present if is_absent is None else present & ~is_absent]
    return (float(values.min()), float(values.max())) if values.size else (np.inf, -np.inf)


def _scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    _, exponent = np.frexp(max(abs(low), abs(high)))  # no difference may leave float64's range
    values = np.ldexp(values.astype(np.float64).clip(low, high), -exponent)
    low, high = np.ldexp((low, high), -exponent)
    values -= low
    values *= 255 / (high - low)
    return np.nan_to_num(values.round(out=values), copy=False, nan=0.0)


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
        return values if values.dtype == np.uint8 else _spread(values, is_absent)
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
        return np.asarray(_rgb(Image.fromarray(np.ascontiguousarray(values))))
    if values.dtype == np.uint8:
        return values
    return np.nan_to_num(values.astype(np.float32), copy=False, nan=0.0, posinf=255.0, neginf=0.0)
