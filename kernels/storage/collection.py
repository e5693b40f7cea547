"""The rows of a bank: vectors, ids, and which of them are there and may match.

A row keeps its number for as long as it exists; what callers see are positions, which number the
rows that are there. Both ascend together, so that ties are settled alike.
"""

import copy
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..contract.chunks import Rows
from .ids.by_row import Checked, Ids

_MERGED_ROWS = 4096
"""Neighbouring chunks are joined up to here, so that many small additions stay few chunks."""


class Collection:
    """Vectors in chunks, with ids. Never changes: its methods return others that share memory."""

    def __init__(self, channels: int, dtype: torch.dtype, device: torch.device) -> None:
        """Of no rows. ``device``: where masks and positions are wanted; vectors stay elsewhere."""
        self.rows = Rows([torch.empty(0, channels, dtype=dtype, device="cpu")])
        self.ids = Ids()
        self.device = device
        self.nonfinite = torch.empty(0, dtype=torch.int64, device="cpu")  # rows that never match
        self._matchable: Tensor | None = None  # made when first asked for
        self._positions: Tensor | None = None

    def __len__(self) -> int:
        """Rows that are there."""
        return len(self.ids)

    def appended(self, chunks: Sequence[Tensor], ids: Checked) -> "Collection":
        """With chunks (m_i, C) and checked ids; the tensors are kept, not copied."""
        kept = [chunk for chunk in self.rows.chunks if len(chunk)]
        for chunk in chunks:
            if kept and _can_join(kept[-1], chunk):
                chunk = torch.cat([kept.pop(), chunk])
            if len(chunk):
                kept.append(chunk)
        rows = Rows(kept) if kept else self.rows
        return self._with(rows=rows, ids=self.ids.appended(ids))

    def excluding(self, rows: Tensor) -> "Collection":
        """``rows`` (n,) are there, but not finite: they never match."""
        if len(rows) == 0:
            return self
        return self._with(nonfinite=torch.cat([self.nonfinite, rows.cpu()]).unique())

    def with_following_id(self, following: int) -> "Collection":
        """The next made id is ``following``, which lies above all that are there."""
        return self._with(ids=self.ids.with_following(following))

    def removed(self, rows: Tensor) -> "Collection":
        """Without ``rows`` (n,), which are there."""
        return self._with(ids=self.ids.removed(rows))

    def compacted(self) -> "Collection":
        """Without what was removed: copies what is there of every chunk that lost rows."""
        present, chunks, renumbered = self.ids.present, [], self.ids.present.cumsum(0) - 1
        for chunk, end in zip(self.rows.chunks, self.rows.ends, strict=True):
            here = present[end - len(chunk) : end].to(chunk.device)
            if here.any():
                chunks.append(chunk if here.all() else chunk[here])
        return self._with(
            rows=Rows(chunks or [self.rows.chunks[0][:0]]),
            ids=self.ids.compacted(),
            nonfinite=renumbered[self.nonfinite[present[self.nonfinite]]],
        )

    def matchable(self) -> Tensor | None:
        """(rows,) bool on the device: present and finite; None where every row is."""
        if len(self) == self.ids.count and len(self.nonfinite) == 0:
            return None
        if self._matchable is not None:
            return self._matchable
        matchable = self.ids.present.clone()
        matchable[self.nonfinite] = False
        matchable = matchable.to(self.device)
        if type(matchable) is Tensor:  # the tensor of a tracer has no numbers to keep
            self._matchable = matchable
        return matchable

    def mask_by_row(self, mask: Tensor | None) -> Tensor | None:
        """The caller's mask, (M,) or (Q, M) by index, as one by row, and of what is matchable."""
        matchable = self.matchable()
        if mask is None or matchable is None:
            return matchable if mask is None else mask
        by_row = mask.new_zeros(*mask.shape[:-1], len(matchable))
        by_row[..., self.ids.present.to(self.device)] = mask
        return by_row.logical_and_(matchable)

    def positions(self, rows: Tensor) -> Tensor:
        """Positions of rows (-1 stays -1)."""
        if len(self) == self.ids.count:
            return rows
        positions = self._positions
        if positions is None:
            positions = (self.ids.present.cumsum(0) - 1).to(self.device)
            if type(positions) is Tensor:  # as above
                self._positions = positions
        return torch.where(rows < 0, rows, positions[rows.clamp(min=0)])

    def rows_of(self, positions: Tensor) -> Tensor:
        """Rows of positions (n,)."""
        if len(self) == self.ids.count:
            return positions
        return self.ids.present.nonzero()[:, 0].to(positions.device)[positions]

    def take(self, positions: Tensor | None) -> Tensor:
        """A copy (n, C) of the vectors at these positions, or of all, on the CPU."""
        rows = self.ids.present.nonzero()[:, 0]
        rows = rows if positions is None else rows[positions.cpu()]
        out = torch.empty(len(rows), self.rows.channels, dtype=self.rows.dtype, device="cpu")
        return self.rows.take(rows, out)

    def present_pieces(self) -> Iterator[Tensor]:
        """The vectors that are there, in order, piece by piece."""
        present = self.ids.present
        for chunk, end in zip(self.rows.chunks, self.rows.ends, strict=True):
            first, step = end - len(chunk), max(1, (1 << 22) // self.rows.channels)
            for start in range(0, len(chunk), step):
                piece = chunk[start : start + step]
                here = present[first + start : first + start + len(piece)]
                yield piece if here.all() else piece[here.to(piece.device)]

    def _with(self, **changes: Rows | Ids | Tensor) -> "Collection":
        new = copy.copy(self)
        new._matchable = new._positions = None
        new.__dict__.update(changes)
        return new


def _can_join(last: Tensor, following: Tensor) -> bool:
    alike = last.dtype == following.dtype and last.device == following.device
    return alike and len(last) + len(following) <= _MERGED_ROWS
