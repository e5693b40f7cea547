"""Rows that lie elsewhere are copied to a GPU while those before them are searched.

Two buffers take turns, and a stream of their own does the copies. A copy into a buffer waits for
what was asked of the device with the rows that lay there before, and for nothing else; what is
asked of the device afterwards waits for the copy. Nothing here waits on the host, but for the
staging of memory that is not pinned, by which time the device has the search before to do.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

BUFFERS = 2


def brought_ahead(pieces: Sequence[Tensor], device: torch.device, streams: Any) -> Iterator[Tensor]:
    """Each of ``pieces`` (m_i, C) on ``device``, where it lies until the next is asked for.

    What reads a piece must have been asked of the current stream by then. Holds BUFFERS times the
    largest piece that lies elsewhere.

    Args:
        streams: what makes streams, as ``torch.cuda`` does; None where the device has none.
    """
    away = [piece.nbytes for piece in pieces if piece.device != device]
    if streams is None or not away:
        yield from (piece.to(device) for piece in pieces)
        return
    searching, copying = streams.current_stream(device), streams.Stream(device)
    count = min(BUFFERS, len(away))
    buffers = [torch.empty(max(away), dtype=torch.uint8, device=device) for _ in range(count)]
    copying.wait_stream(searching)  # which may still use that memory for something else
    read: list[Any] = []  # events, of all pieces that were copied
    try:
        for piece in pieces:
            if piece.device == device:
                yield piece
                continue
            at = len(read)
            room = buffers[at % count][: piece.nbytes].view(piece.dtype).view(piece.shape)
            with streams.stream(copying):
                if at >= count:
                    copying.wait_event(read[at - count])
                room.copy_(piece, True)  # without waiting for it
            searching.wait_stream(copying)
            yield room
            read.append(searching.record_event())
    finally:  # the memory is given back to the stream that searches
        searching.wait_stream(copying)
