"""Photographs, and those below a folder."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from ...kernels.notebook.bars import bar
from ..images.read import UnreadableImage, read_image
from ..names import printable

SUFFIXES = frozenset((".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"))
MAX_SIDE = 800  # of a photograph in pixels; what an encoder sees is smaller still


@dataclass(frozen=True, eq=False)
class Photograph:
    """One photograph. A file is read when it is needed; small images are held."""

    name: str
    source: Path | Image.Image
    size: tuple[int, int]

    def load(self) -> Image.Image:
        """The whole of it, at most ``MAX_SIDE`` pixels a side.

        Raises:
            UnreadableImage: the file is another than it was, or gone.
        """
        return read_image(self.source, MAX_SIDE) if isinstance(self.source, Path) else self.source


class Photographs(NamedTuple):
    found: list[Photograph]
    skipped: list[str]
    """One line for each file that could not be read: its name and why."""


def photographs_in(folder: Path, progress: bool = False) -> Photographs:
    """Every readable image below ``folder``, by path; hidden files and folders are left alone.

    Links to folders are not followed. What has the name of an image and cannot be read, and folders
    that cannot be listed, are among those skipped.
    """
    found, skipped = [], []

    def skip(path: Path, reason: str) -> None:
        skipped.append(printable(f"{path.relative_to(folder).as_posix()}: {reason}"))

    def skip_folder(error: OSError) -> None:
        skip(Path(error.filename), error.strerror or str(error))

    files = sorted(_image_files(folder, skip_folder))
    for path in bar(files, desc="reading images", disable=not progress, leave=False):
        try:
            size = read_image(path, MAX_SIDE).size
            found.append(Photograph(path.relative_to(folder).as_posix(), path, size))
        except UnreadableImage as error:
            skip(path, error.reason)
    return Photographs(found, skipped)


def _image_files(folder: Path, on_error: Callable[[OSError], None]) -> Iterator[Path]:
    for place, folders, files in os.walk(folder, onerror=on_error):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            path = Path(place, name)
            if path.suffix.lower() in SUFFIXES and not name.startswith("."):
                yield path
