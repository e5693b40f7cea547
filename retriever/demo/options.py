"""What ``flashmatch demo`` can be told, and what of it cannot work: said before the work begins."""

import os
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten

import torch
from PIL import Image
from torch import nn

from ..gallery.photographs import MAX_SIDE
from ..images.read import LONGEST_REASON, UnreadableImage, read_image
from ..model.evaluating import evaluating
from ..names import printable, quoted
from .page import try_folder

PAGE = "index.html"
# The least and the most of each option. A batch of 512 pixels a side takes 3.5 GB, and the enlarged
# gallery 5 KB a row, several times over.
BOUNDS = {
    "topk": (1, 100),
    "queries": (1, None),
    "gallery": (1, None),
    "image_size": (1, 512),
    "enlarged": (0, 500_000),
    "threads": (0, max(256, os.cpu_count() or 1)),
    "seed": (0, 2**63 - 1),
}
LEAST_SIZES = 64  # how many sizes above one that is too small are tried


class DemoError(Exception):
    """Something the user can put right; the message says what."""


@dataclass(frozen=True)
class Options:
    """What ``flashmatch demo`` can be told."""

    images: Path | None = None
    query: Path | None = None
    out: Path = Path("demo-out")
    topk: int = 5
    queries: int = 200
    gallery: int = 1000
    image_size: int = 96  # 128, 160 and 224 find fewer: most tiles are about 100 pixels wide
    enlarged: int = 50_000
    threads: int = 0  # as many as encode faster: torch's usual number, or one
    seed: int = 0
    html: bool = True


def require_options(options: Options) -> None:
    """Whatever is known to fail before anything is read.

    Raises:
        DemoError: naming the option.
    """
    for name, (least, most) in BOUNDS.items():
        value = getattr(options, name)
        flag = f"--{name.replace('_', '-')}"
        if value < least:
            expected = f"be at least {least}" if least else "not be negative"
            raise DemoError(f"{flag} must {expected}; got {value}")
        if most is not None and value > most:
            raise DemoError(f"{flag} must be at most {most}; got {value}")
    if options.images is not None:
        _require_folder(options.images)
    if options.html:
        try:
            try_folder(options.out, PAGE)
        except (OSError, ValueError) as error:
            raise cannot_write(options.out, error) from error


def _require_folder(path: Path) -> None:
    try:
        os.scandir(path).close()
    except NotADirectoryError as error:
        raise DemoError(f"--images must be a folder; got {quoted(path)}") from error
    except (OSError, ValueError) as error:
        reason = _reason(error)
        raise DemoError(f"--images must be a folder; got {quoted(path)}: {reason}") from error


def cannot_write(path: Path, error: Exception) -> DemoError:
    return DemoError(f"--out must be a folder to write to; got {quoted(path)}: {_reason(error)}")


def _reason(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return printable(shorten(text, LONGEST_REASON))


def read_query(path: Path) -> tuple[Image.Image, str]:
    """The user's one image, and its name."""
    try:
        return read_image(path, MAX_SIDE), printable(path.name)
    except UnreadableImage as error:
        is_file = not isinstance(error.__cause__, FileNotFoundError)
        what = "a readable image" if is_file else "an image file"
        raise DemoError(f"--query must be {what}; got {quoted(path)}: {error.reason}") from error


def require_image_size(encoder: nn.Module, size: int) -> None:
    """One small image tells, before thousands are read."""
    error = _refusal(encoder, size)
    if error is None:
        return
    least = next((n for n in range(size + 1, size + LEAST_SIZES) if not _refusal(encoder, n)), None)
    expected = "a size that the encoder takes" if least is None else f"at least {least}"
    raise DemoError(f"--image-size must be {expected}; got {size}: {_reason(error)}") from error


@torch.inference_mode()
def _refusal(encoder: nn.Module, size: int) -> Exception | None:
    own = [*encoder.parameters(), *encoder.buffers()]
    like = next((tensor for tensor in own if tensor.is_floating_point()), torch.empty(0))
    try:
        with evaluating(encoder):
            encoder(like.new_zeros(1, 3, size, size))
    except Exception as error:  # whatever it raises, it takes no such image
        return error
    return None
