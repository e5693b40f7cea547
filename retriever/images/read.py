"""What an image is, and its pixels: one reading for galleries, queries, loaders and examples.

What comes out is upright, of 8 bits a channel, and on white where it was transparent. A file and
the PIL image or array of the same file give the same pixels.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from textwrap import shorten

from PIL import Image, ImageOps

from ..names import printable, quoted
from .greys import grey_of, no_data_of

# Pillow knows many more, and asks the content, not the name: an EPS file would reach Ghostscript.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
LONGEST_REASON = 200  # characters; some decoders quote what they were given


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
            image = rgb_of(source)
        else:
            with open_image(source) as file:
                image = rgb_of(file)
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


@contextmanager
def _reasons_of(source: str | os.PathLike | Image.Image) -> Iterator[None]:
    """Whatever is raised inside as UnreadableImage, lack of memory aside."""
    try:
        yield
    except (MemoryError, UnreadableImage):
        raise
    except Exception as error:  # decoders raise anything: struct.error, TypeError, RuntimeError
        reason = _reason(error)
        raise UnreadableImage(f"{shown(source)}: {reason}", reason) from error


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        text = f"cannot identify it as one of {', '.join(FORMATS)}"
    elif isinstance(error, OSError):
        text = error.strerror or str(error)
    else:
        text = f"{type(error).__name__}: {error}"
    return printable(shorten(text, LONGEST_REASON, placeholder=" ..."))


def shown(source: str | os.PathLike | Image.Image) -> str:
    if isinstance(source, Image.Image):
        return f"a PIL image of mode {source.mode}"
    return quoted(source)


def rgb_of(image: Image.Image) -> Image.Image:
    """The frame that ``image`` shows, in an image of its own that knows nothing else."""
    upright = ImageOps.exif_transpose(image)  # loads it
    if upright.mode[0] in "IF":
        upright = Image.fromarray(grey_of(upright, no_data_of(image)))
    if upright.mode == "La":  # Pillow converts it to nothing else
        upright = upright.convert("LA")
    if upright.has_transparency_data:
        white = Image.new("RGBA", upright.size, "white")
        upright = Image.alpha_composite(white, upright.convert("RGBA"))
    rgb = upright if upright.mode == "RGB" else upright.convert("RGB")
    rgb.info = {}  # what it says of colours or of a side that is up is done
    return rgb
