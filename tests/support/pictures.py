"""Pictures in every mode, files of every format that Pillow writes, and what an encoder sees."""

from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from flashmatch import ImageToImageRetriever


def encoded(inputs: object, **options) -> Tensor:
    """The images as an encoder sees them."""
    return ImageToImageRetriever(lambda x: x, torch.ones(1, 3), **options).extract_feat(inputs)


def picture(mode: str, size: tuple[int, int] = (37, 29)) -> Image.Image:
    """Smooth, with noise on it, in any of Pillow's modes."""
    width, height = size
    y, x = np.mgrid[:height, :width]
    noise = np.random.default_rng(0).integers(0, 40, (height, width, 4))
    channels = np.stack([5 * x, 6 * y, 3 * (x + y), 255 - 4 * x], axis=2) + noise
    image = Image.fromarray(channels.clip(0, 255).astype(np.uint8))
    if mode == "I;16":
        return Image.fromarray((channels[..., 0] * 200).astype(np.uint16))
    if mode in ("I", "F"):
        values = channels[..., 0] * 1e3 - 7e4
        return Image.fromarray(values.astype(np.int32 if mode == "I" else np.float32))
    return image if mode == "RGBA" else image.convert("RGB").convert(mode)


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@cache
def originals() -> dict[str, bytes]:
    """What Pillow writes of each format that we read, by a name that says how."""
    exif = turned(6)
    exif[0x010F] = "Maker"
    frames = [picture("RGBA").rotate(90 * i) for i in range(1, 4)]
    animated = {"save_all": True, "append_images": frames, "duration": 50}
    kinds: dict[str, tuple[Image.Image, dict]] = {
        "animated.gif": (picture("P"), animated | {"disposal": 2}),
        "transparent.gif": (picture("P"), {"transparency": 3}),
        "animated.png": (picture("RGBA"), animated),
        "transparent P.png": (picture("P"), {"transparency": bytes(range(256))}),
        "transparent L.png": (picture("L"), {"transparency": 30}),
        "transparent I;16.png": (picture("I;16"), {"transparency": 1000}),
        "progressive.jpg": (picture("RGB"), {"progressive": True}),
        "frames.tif": (picture("RGB"), {"save_all": True, "append_images": frames}),
        "no data.tif": (picture("F"), {"tiffinfo": {42113: "-70000"}}),
        "bits.tif": (picture("1"), {"compression": "group4"}),
        "lossless.webp": (picture("RGBA"), {"lossless": True}),
        "animated.webp": (picture("RGBA"), animated),
        "animated.avif": (picture("RGBA"), animated | {"speed": 10}),
    }
    modes = {
        "jpg": ("RGB", "L", "CMYK"),
        "png": ("RGB", "RGBA", "L", "LA", "P", "1", "I;16"),
        "bmp": ("RGB", "RGBA", "L", "P", "1"),
        "gif": ("L",),
        "webp": ("RGB", "RGBA"),
        "avif": ("RGB", "RGBA"),
        "tif": ("RGB", "RGBA", "L", "LA", "P", "1", "I;16", "I", "F", "CMYK", "YCbCr", "LAB"),
    }
    for suffix, each in modes.items():
        kinds |= {f"{mode}.{suffix}": (picture(mode), {}) for mode in each}
    for suffix in ("jpg", "png", "webp", "avif", "tif"):
        kinds[f"turned.{suffix}"] = (picture("RGB"), {"exif": exif})
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        kinds[f"{compression}.tif"] = (picture("RGB"), {"compression": compression})
    Image.init()
    return {name: _written(name, *kind) for name, kind in kinds.items() if _is_known(name)}


def _is_known(name: str) -> bool:
    return Image.registered_extensions()[Path(name).suffix] in Image.SAVE


def _written(name: str, image: Image.Image, options: dict) -> bytes:
    buffer = BytesIO()
    image.save(buffer, Image.registered_extensions()[Path(name).suffix], **options)
    return buffer.getvalue()
