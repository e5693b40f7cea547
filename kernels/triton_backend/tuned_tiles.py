"""Tables of the tiles that were fastest on one card: written by tune, followed by plans."""

import json
import re
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import cache
from math import log
from pathlib import Path
from typing import Any

import torch

from ..files.cache_folder import cache_folder, slug
from ..files.whole_file import whole_file
from . import chips
from .tiles import Tile

FORMAT = "flashmatch.tiles 2"


@dataclass(frozen=True)
class Row:
    """The tile that was fastest for one shape."""

    channels: int
    queries: int
    tile: Tile


@dataclass(frozen=True)
class Tuned:
    """What was found on one card."""

    rows: tuple[Row, ...]

    def __hash__(self) -> int:
        """Soon found: plans are looked up by it."""
        return len(self.rows)

    def tile(self, queries: int, channels: int, among: tuple[Tile, ...]) -> Tile | None:
        """Of ``among``, the tile of the nearest row: by channels, then by queries, as ratios.

        ``among``: what the chip may run at this width. A row counts if its tile is one of those up
        to ``tile_c``, which follows from the width; no other tile was ever compiled in our matrix.
        """

        def distance(row: Row) -> tuple[float, float]:
            return abs(log(row.channels / channels)), abs(log(row.queries / queries))

        for row in sorted(self.rows, key=distance):
            for tile in among:
                if replace(row.tile, tile_c=tile.tile_c) == tile:
                    return tile
        return None


def default_path(device: torch.device) -> Path:
    """The file that plans for this device follow, if it is there."""
    import triton

    return path_for(chips.name(device), triton.__version__)


def path_for(device_name: str, triton_version: str) -> Path:
    """tiles-<device>-triton-<version>.json in the cache folder."""
    version = re.sub(r"[^A-Za-z0-9.+-]", "-", triton_version)
    return cache_folder() / f"tiles-{slug(device_name)}-triton-{version}.json"


@cache
def of_device(device: torch.device) -> Tuned | None:
    """The table that plans for this device follow, looked up once in a process; None: untuned."""
    return read(default_path(device))


def read(path: Path) -> Tuned | None:
    """The table in a file; None without a file, and, with a warning, where none can be read."""
    try:
        return _parsed(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, LookupError, RecursionError) as error:
        warnings.warn(
            f"the table of tuned tiles in {str(path)!r} is ignored: it cannot be understood "
            f"({type(error).__name__}: {error}). Delete it or call flashmatch.kernels.tune() again",
            stacklevel=2,
        )
        return None


def write(path: Path, rows: Iterable[Row]) -> None:
    """Make the file at once: whoever reads it meanwhile sees the old one or the new one, whole."""
    table = {"format": FORMAT, "rows": [asdict(row) for row in rows]}
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        file.write(f"{json.dumps(table, indent=1)}\n".encode())


def _parsed(table: Any) -> Tuned:
    if table["format"] != FORMAT:
        raise ValueError(f"its format must be {FORMAT!r}; got {table['format']!r}")
    return Tuned(tuple(_row(**row) for row in table["rows"]))


def _row(channels: Any, queries: Any, tile: Any) -> Row:
    for name, value in (("channels", channels), ("queries", queries)):
        if type(value) is not int or value < 1:
            raise ValueError(f"{name} must be an int of at least 1; got {value!r}")
    return Row(channels, queries, Tile(**tile))
