"""Launches of the scans that tiles cut up, by whichever of two kernels the tile asks for."""

from typing import Any

from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from . import chips
from .tiles import TILE_P, Tile


def scan(
    kernel: Any,
    persistent_kernel: Any,
    queries: Tensor,
    prototypes: Tensor,
    arguments: tuple,
    metric: str,
    pairs: bool,
    tile: Tile,
    group: int,
) -> None:
    """Bound (Qpad, width) queries against (Mpad, width) prototypes, both padded to whole tiles.

    ``arguments``: the kernel's own; ``pairs``: its words are a mask of pairs.
    """
    q_tiles, p_tiles = len(queries) // tile.block_q, len(prototypes) // tile.block_p
    cut = (tile.block_q, tile.block_p, tile.tile_c, tile.together, TILE_P, group)
    if not tile.persistent:
        kernel[(q_tiles * p_tiles,)](
            queries, prototypes, q_tiles, p_tiles, *arguments, metric, pairs, *cut, **tile.options
        )
        return
    programs = min(q_tiles * p_tiles, chips.chip(queries.device).multiprocessors)
    persistent_kernel[(programs,)](
        TensorDescriptor.from_tensor(queries, [tile.block_q, tile.tile_c]),
        TensorDescriptor.from_tensor(prototypes, [tile.block_p, tile.tile_c]),
        q_tiles, p_tiles, *arguments, metric, *cut, **tile.options,
    )  # fmt: skip
