"""An opt-in sweep for the fastest scan tiles of the user's own card."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from .contract import arguments
from .proofs.int8 import MAX_CHANNELS
from .triton_backend import chips
from .triton_backend.tiles import FEW_QUERIES


@torch.no_grad()
def tune(
    device: torch.device | str | int | None = None,
    *,
    channels: Sequence[int] = (64, 128, 256, 512, 768, 1024, 1536),
    queries: Sequence[int] = (128, 1024, 8192),
    rows: int = 262_144,
    path: str | os.PathLike | None = None,
    verbose: bool = False,
) -> Path:
    """Time every scan tile that a card may run, and write a table of the fastest.

    Where that lies in the default place, plans on that card follow it by its nearest channels, then
    queries: from then on, and in every later process with the same version of Triton. The results
    of a search stay the same: a tile counts only where it finds as many entries as the plainest
    tile, query by query. A tile that fails that is left out, with a warning. The plainest tile
    stays unless another is more than 2 % faster.

    Each tile is compiled, and scans every shape some ten times; how long that takes is not
    measured. Holds about 3 * rows * max(channels) bytes, four times ``WORKSPACE_BYTES`` and 256
    MiB: some 2.5 GB as called without arguments, by arithmetic.

    Args:
        device: a CUDA or ROCm device that the Triton backend runs on; None = the current one. With
            TRITON_INTERPRET=1, the CPU, whose times mean nothing.
        channels: widths to try.
        queries: numbers of queries to try, each more than 16: fewer are searched without tiles.
        rows: prototypes, at most, rounded up to whole pages of 1024. A search scans chunks that fit
            ``WORKSPACE_BYTES``, and so does this.
        path: the file to write; None = the one that plans look up,
            ``<cache>/flashmatch/tiles-<device>-triton-<version>.json``, where ``<cache>`` is
            $FLASHMATCH_CACHE, $XDG_CACHE_HOME or ~/.cache.
        verbose: print a line for each shape.

    Returns:
        The path of the file, which appears whole or not at all. Delete it to be untuned.

    Raises:
        ValueError: the device is not one that the Triton backend runs on, or a size is out of
            range; before anything is timed or written. TypeError: a size is not an int.
    """
    found = chips.runnable(device)
    widths = _require_sizes("channels", channels, 1, MAX_CHANNELS)
    counts = _require_sizes("queries", queries, FEW_QUERIES + 1, 2**31)
    _require_sizes("rows", [rows], 1, 2**31)
    from . import WORKSPACE_BYTES  # at call time: it can be set
    from .triton_backend import tuned_tiles
    from .triton_backend.selfcheck import tile_sweep

    target = tuned_tiles.default_path(found) if path is None else Path(path)
    if target.is_dir():
        raise ValueError(f"path must be a file to write; got the folder {str(target)!r}")
    target.parent.mkdir(parents=True, exist_ok=True)  # rather fail now than after the sweep
    best = []
    for case in tile_sweep.sweep(found, widths, counts, rows, WORKSPACE_BYTES):
        for trial in case.trials:
            if trial.seconds is None:
                warnings.warn(
                    f"{trial.tile} is left out for {case.channels} channels and {case.queries} "
                    f"queries: {trial.status}",
                    stacklevel=2,
                )
        best.append(case.row)
        if verbose:
            print(f"{case.channels} channels, {case.queries} queries: {case.best}")
    tuned_tiles.write(target, best)
    tuned_tiles.of_device.cache_clear()
    return target


def _require_sizes(name: str, sizes: Sequence[int], least: int, most: int) -> list[int]:
    """In order, each once."""
    if not isinstance(sizes, Sequence):
        raise TypeError(f"{name} must be a sequence of ints; got {type(sizes).__name__}")
    if not sizes:
        raise ValueError(f"{name} must name at least one size; got {sizes!r}")
    sizes = [arguments.require_int(name, size) for size in sizes]
    for size in sizes:
        if not least <= size <= most:
            raise ValueError(f"{name} must lie between {least} and {most}; got {size}")
    return sorted(set(sizes))
