"""Vectors in chunks that may lie on different devices, in different dtypes, numbered through."""

import bisect
import functools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


class Rows:
    """A sequence of tensors (M_i, C) read as one (M, C). Only what is asked for moves."""

    def __init__(self, chunks: Sequence[Tensor]) -> None:
        self.chunks = list(chunks)
        self.ends: list[int] = []
        end = 0
        for chunk in self.chunks:
            end += chunk.shape[0]
            self.ends.append(end)
        self._boundaries: dict[torch.device, Tensor] = {}
        self.nbytes = sum(chunk.nbytes for chunk in self.chunks)
        self.are_on_cpu = all(chunk.is_cpu for chunk in self.chunks)

    def __len__(self) -> int:
        return self.ends[-1]

    @property
    def channels(self) -> int:
        return self.chunks[0].shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """One that holds all rows exactly."""
        return functools.reduce(torch.promote_types, (chunk.dtype for chunk in self.chunks))

    def pieces(self, start: int, stop: int) -> Iterator[Tensor]:
        """Views of rows start..stop, chunk by chunk."""
        for c in range(bisect.bisect_right(self.ends, start), len(self.chunks)):
            chunk, end = self.chunks[c], self.ends[c]
            first = end - len(chunk)
            if first >= stop:
                return
            yield cut(chunk, slice(max(start - first, 0), min(stop, end) - first))

    def span(self, start: int, stop: int, device: torch.device) -> Tensor:
        """Rows start..stop on ``device``, in a dtype that holds them all; a view if it can be."""
        pieces = [brought(piece, device) for piece in self.pieces(start, stop)]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def sample(
        self, count: int, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """At most ``count`` of the rows, in ``dtype`` on ``device``, evenly spread."""
        count = min(count, len(self))
        chosen = torch.arange(count, device=device) * len(self) // max(count, 1)
        out = torch.empty(count, self.channels, dtype=dtype, device=device)
        return self.take(chosen, out)

    def take(self, indices: Tensor, out: Tensor) -> Tensor:
        """Fill ``out`` (n, C) with the rows ``indices`` (n,) int64, which lie on its device.

        On a CPU torch itself looks whether rows exist.
        """
        if indices.device.type != "cpu":
            require_rows(indices, len(self))
        if len(self.chunks) == 1 and self.chunks[0].device == out.device:
            chunk = self.chunks[0]
            same = out if chunk.dtype == out.dtype else None
            taken = torch.index_select(chunk, 0, indices, out=same)
            return out if taken is out else out.copy_(taken)
        if indices.device not in self._boundaries:
            self._boundaries[indices.device] = torch.tensor(self.ends, device=indices.device)
        chunk_of = torch.bucketize(indices, self._boundaries[indices.device], right=True)
        for c in chunk_of.unique().tolist():
            chunk, mine = self.chunks[c], chunk_of == c
            local = (indices[mine] - (self.ends[c] - len(chunk))).to(chunk.device)
            out[mine] = chunk.index_select(0, local).to(out.device).to(out.dtype)
        return out


def cut(tensor: Tensor, rows: slice) -> Tensor:
    """Some rows of a tensor; itself where that is all: a view takes the host 2 microseconds."""
    return tensor if rows.stop - rows.start == tensor.shape[0] else tensor[rows]


def even_slices(count: int, parts: int) -> list[slice]:
    """0..count in so many parts, or ``count`` of them, whose sizes differ by one at most."""
    parts = min(parts, count)
    return [slice(count * i // parts, count * (i + 1) // parts) for i in range(parts)]


def brought(rows: Tensor, device: torch.device) -> Tensor:
    """``rows`` on ``device``, for whatever is asked of the device next.

    Nothing that a CPU does waits for a copy that did not block.
    """
    return rows.to(device, non_blocking=device.type != "cpu")


def require_rows(rows: Tensor, count: int) -> None:
    """Raise unless all ``rows`` (n,) int64 are among ``count``. Reads two numbers back."""
    if len(rows) == 0:
        return
    least, most = torch.aminmax(rows)
    if not 0 <= int(least) <= int(most) < count:
        raise RuntimeError(f"rows {int(least)} to {int(most)} were to be read of {count}: a defect")
