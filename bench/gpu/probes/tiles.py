"""The tiles that a scan of codes may be cut into on this chip: the same from each, and how fast.

The table of the fastest lies beside the figures. Plans follow it once it is copied to where
``flashmatch.kernels.tune`` would have written it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from measuring.ledger import described
from measuring.shapes import Shape
from measuring.timing import within

from ..figures import figure, write

if TYPE_CHECKING:
    from flashmatch.kernels.triton_backend.selfcheck.tile_sweep import Case
    from flashmatch.kernels.triton_backend.tiles import Tile
    from flashmatch.kernels.triton_backend.tuned_tiles import Tuned

PART = "tiles"
# As tune has them, the channels that people ask about first.
SIZES = (128, 768, 512, 1536, 256, 1024, 64), (128, 1024, 8192), 262_144
TINY = (64,), (20,), 700


def run(device: torch.device, folder: Path, minutes: float, tiny: bool = False) -> int:
    """A figure per shape and tile, and the table; 1 if a tile is wrong or fails."""
    failed, best = 0, []
    try:
        from flashmatch.kernels import WORKSPACE_BYTES
        from flashmatch.kernels.triton_backend import tuned_tiles
        from flashmatch.kernels.triton_backend.selfcheck import tile_sweep

        path = folder / tuned_tiles.default_path(device).name
        channels, queries, rows = TINY if tiny else SIZES
        for c, q in within(minutes, [(c, q) for c in channels for q in queries]):
            for case in tile_sweep.sweep(device, (c,), (q,), rows, WORKSPACE_BYTES):
                failed += _written(case, device, folder)
                best.append(case.row)
                tuned_tiles.write(path, best)  # each time: a part that takes too long is ended
    except Exception as error:
        what = "the rest, tile any: scan"
        write([figure(device, PART, what, "", None, "ms", described(error))], folder)
        failed += 1
    return 1 if failed else 0


def _written(case: "Case", device: torch.device, folder: Path) -> int:
    """How many of its tiles are not right; all are written down."""
    shape = Shape(*case.launched, case.channels, dtype="float16")
    for i, trial in enumerate(case.trials):
        ms = None if trial.seconds is None else 1e3 * trial.seconds
        what = f"{case.queries} queries, tile {i}: scan"
        write([figure(device, PART, what, shape, ms, "ms", trial.status)], folder)
    return sum(trial.seconds is None for trial in case.trials)


@contextmanager
def tile(i: int) -> Iterator[None]:
    """Plans follow a table that names the ``i``-th tile."""
    from flashmatch.kernels.triton_backend import tuned_tiles

    tuned: Any = tuned_tiles
    kept = tuned.of_device
    tuned.of_device = lambda device: _table(device, i)
    try:
        yield
    finally:
        tuned.of_device = kept


def count(device: torch.device) -> int:
    """How many tiles there are to choose from on this chip."""
    return len(_tiles(device))


def _table(device: torch.device, i: int) -> "Tuned":
    from flashmatch.kernels.triton_backend.tuned_tiles import Row, Tuned

    return Tuned((Row(128, 128, _tiles(device)[i]),))


def _tiles(device: torch.device) -> "tuple[Tile, ...]":
    """The plainest first."""
    from flashmatch.kernels.triton_backend import chips, tiles

    return tiles.int8_tiles(128, chips.chip(device).arch)
