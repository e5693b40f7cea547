"""Greys of more than 8 bits, which have no fixed black and white, spread over 0..255."""

from contextlib import suppress

import numpy as np
from PIL import Image

BLOCK_PIXELS = 1 << 18  # spread at a time
GDAL_NODATA = 42113  # the TIFF tag with the value, as text, of pixels that hold no measurement


def grey_of(image: Image.Image, no_data: float) -> np.ndarray:
    """(H, W) uint8 from a grey of more than 8 bits. ``no_data`` may be NaN."""
    values, colour = np.asarray(image), image.info.get("transparency")
    transparent = values == (colour if isinstance(colour, int) else np.nan)
    grey = spread(values, transparent | (values == no_data))
    return np.where(transparent, np.uint8(255), grey)


def no_data_of(image: Image.Image) -> float:
    """GDAL_NODATA of a TIFF, as the image's pixels have it, else NaN."""
    with suppress(ValueError, TypeError, OverflowError), np.errstate(over="ignore"):
        value = float(str(getattr(image, "tag_v2", {}).get(GDAL_NODATA)).strip(" \0"))
        return float(np.float32(value)) if image.mode == "F" else value
    return np.nan


def spread(values: np.ndarray, is_absent: np.ndarray | None = None) -> np.ndarray:
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
