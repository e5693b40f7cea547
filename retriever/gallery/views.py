"""Photographs, from a folder or from the scikit-image wheel, and galleries of their parts."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, NamedTuple

from PIL import Image
from torch.utils.data import Dataset

from ..batches.samples import DataSample
from ..names import printable
from .photographs import Photograph

MIN_TILE_SIDE = 32  # smaller ones show nothing
FINEST_GRID = 8
LARGE_SIDE = 64  # a distorted copy of something smaller shows nothing that could be known again


class Box(NamedTuple):
    """A rectangle of pixels, as PIL has it."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def area(self) -> int:
        return max(0, self.right - self.left) * max(0, self.bottom - self.top)

    def shared(self, other: "Box") -> float:
        """The part of the smaller rectangle that lies in the other one, 0..1."""
        common = Box(
            max(self.left, other.left),
            max(self.top, other.top),
            min(self.right, other.right),
            min(self.bottom, other.bottom),
        )
        return common.area / min(self.area, other.area)


@dataclass(frozen=True, eq=False)
class View:
    """One image of a gallery: a photograph, or a rectangle of it."""

    photograph: Photograph
    box: Box
    place: str  # "" for the whole photograph, else such as "tile 3 of 4x4"

    @property
    def label(self) -> str:
        """For a terminal or a page."""
        name = printable(self.photograph.name)
        return f"{name}, {self.place}" if self.place else name

    @property
    def is_large(self) -> bool:
        left, top, right, bottom = self.box
        return min(right - left, bottom - top) >= LARGE_SIDE

    def overlaps(self, other: "View") -> bool:
        """Whether both show, for the most part of one of them, the same pixels."""
        return self.photograph is other.photograph and self.box.shared(other.box) >= 0.5


class Gallery(Dataset):
    """Views as a retriever's prototypes: RGB images of one size, and samples that know their row.

    Views of one photograph should follow each other, since only the last one read is kept.
    """

    def __init__(self, views: Sequence[View], image_size: int) -> None:
        self.views = list(views)
        self.image_size = image_size
        self._last: tuple[Photograph, Image.Image] | None = None

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = DataSample(metainfo={"sample_idx": index})
        return {"inputs": fit(self.image(index), self.image_size), "data_samples": sample}

    def image(self, index: int) -> Image.Image:
        """The view in its own size."""
        view = self.views[index]
        if self._last is None or self._last[0] is not view.photograph:
            self._last = view.photograph, view.photograph.load()
        return self._last[1].crop(view.box)


def fit(image: Image.Image, side: int) -> Image.Image:
    """A square of ``side`` pixels. Proportions are lost, on both sides of a comparison alike."""
    return image.resize((side, side), Image.Resampling.BICUBIC, reducing_gap=3)


def cut_views(photographs: Sequence[Photograph], at_least: int) -> list[View]:
    """The photographs, and tiles of them until there are ``at_least`` views or they get too small.

    Grids of 2 x 2, 3 x 3 and so on are added, each to all photographs. Tiles of one grid do not
    overlap; those of different grids do.
    """
    finest, count = 1, len(photographs)
    while count < at_least and finest < FINEST_GRID:
        finest += 1
        count += sum(finest**2 for photograph in photographs if _has_room(photograph, finest))
    return [
        view
        for photograph in photographs
        for grid in range(1, finest + 1)
        if grid == 1 or _has_room(photograph, grid)
        for view in _tiles(photograph, grid)
    ]


def _has_room(photograph: Photograph, grid: int) -> bool:
    return min(photograph.size) >= grid * MIN_TILE_SIDE


def _tiles(photograph: Photograph, grid: int) -> list[View]:
    width, height = photograph.size
    columns, rows = ([ceil(n * i / grid) for i in range(grid + 1)] for n in (width, height))
    return [
        View(
            photograph,
            Box(columns[x], rows[y], columns[x + 1], rows[y + 1]),
            f"tile {y * grid + x + 1} of {grid}x{grid}" if grid > 1 else "",
        )
        for y in range(grid)
        for x in range(grid)
    ]


def describe_views(views: Sequence[View]) -> str:
    """Such as ``20 photographs, 1,039 tiles, 200 patches below 64 pixels``."""
    kinds = Counter(
        "tile" if view.place else "photograph" if view.is_large else "patch" for view in views
    )
    parts = [
        counted(kinds["photograph"], "photograph"),
        counted(kinds["tile"], "tile"),
        counted(kinds["patch"], "patch", "patches") + f" below {LARGE_SIDE} pixels",
    ]
    return ", ".join(part for part in parts if not part.startswith("0 "))


def counted(count: int, one: str, many: str = "") -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"
