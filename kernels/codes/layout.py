"""In which order codes lie: pages, tiles of a page, groups of a tile."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Rows of a page, rows that share a maximum, and what the width is padded to a multiple of.

    Groups are laid out within tiles of a page; it is one tile unless ``tile_span`` says otherwise.
    """

    span: int
    group: int
    width_multiple: int = 1
    tile_span: int = 0

    @property
    def is_scanned(self) -> bool:
        """Whether kernels scan it, tile by tile, which are told more of each group."""
        return bool(self.tile_span)

    @property
    def groups(self) -> int:
        """Per page."""
        return self.span // self.group

    @property
    def tile(self) -> int:
        """Rows of a tile."""
        return self.tile_span or self.span

    @property
    def tile_groups(self) -> int:
        return self.tile // self.group

    def group_of(self, positions: Tensor) -> Tensor:
        """The groups, int64, that hold these positions."""
        each, tile = self.tile_groups, self.tile
        first = torch.div(positions, tile, rounding_mode="floor") * each
        return first + positions % tile % each

    def width(self, channels: int) -> int:
        return -(-channels // self.width_multiple) * self.width_multiple
