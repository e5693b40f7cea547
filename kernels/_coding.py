"""Keeps the codes of a collection up to date, or none where the float screen serves it."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from . import _bounds_int8, _int8, _products
from ._codes import Codes, Layout, fitted_frame
from ._collection import Collection
from ._taming import cleaned, is_tame

SCREENS = ("auto", "int8", "float")

_STEP_ELEMENTS = 1 << 23
"""Elements coded at a time: 32 MiB in fp32."""

_SAMPLE = 2048
"""Rows that a frame is fitted to; with fewer, it is fitted anew when there are four times more."""


class Coder:
    """``codes`` of all rows of ``collection``; None where the screen is float."""

    def __init__(self, collection: Collection, metric: str, screen: str) -> None:
        self.collection, self.metric = collection, metric
        self.codes: Codes | None = None
        self.layout = layout_for(collection.device, collection.rows.channels, screen)
        self.fitted_on = 0

    @property
    def screen(self) -> str:
        return "float" if self.layout is None else "int8"

    @property
    def nbytes(self) -> int:
        return 0 if self.codes is None else self.codes.nbytes

    def code(self, start: int, exclude: bool, progress: bool | None) -> None:
        """Bring in the rows from ``start`` on; with ``start`` 0 everything, anew.

        Raises ValueError at vectors that are not finite unless ``exclude``.
        """
        rows = self.collection.rows
        few = self.fitted_on < min(_SAMPLE, len(rows) // 4 + 1)
        if self.layout is not None and (start == 0 or few):
            start, self.fitted_on = 0, len(rows)
            frame = fitted_frame(rows.sample(_SAMPLE, self.collection.device), self.metric)
            self.codes = Codes(frame, self.layout, len(rows), rows.channels)
        span = self.layout.span if self.layout is not None else 1
        first = start - start % span
        step = span * max(1, _STEP_ELEMENTS // (span * rows.channels))
        with _bar(len(rows) - first, progress) as advance:
            for at in range(first, len(rows), step):
                stop = min(at + step, len(rows))
                self._code(at, stop, start, exclude)
                advance(stop - at)
        self.close(torch.arange(first, len(rows), span, device="cpu"))

    def close(self, rows: Tensor) -> None:
        """Let codes of the pages of these rows match where the collection says so."""
        matchable = self.collection.matchable()
        if self.codes is None or matchable is None:
            return
        pages = torch.div(rows, self.codes.layout.span, rounding_mode="floor").unique()
        self.codes.close(pages.to(self.codes.device), matchable)

    def _code(self, at: int, stop: int, start: int, exclude: bool) -> None:
        rows, device = self.collection.rows, self.collection.device
        vectors, norms, bad = cleaned(rows, at, stop, device, exclude)
        if bad is not None:
            excluded = bad.nonzero()[:, 0] + at
            self.collection.exclude(excluded[excluded >= start])
        if self.codes is not None and is_tame(norms):
            self.codes.write(at // self.codes.layout.span, vectors, norms)
        else:
            self.codes = self.layout = None


@contextmanager
def _bar(rows: int, progress: bool | None) -> Iterator[Callable[[int], object]]:
    """What to call with the rows that are done; None shows a bar in a terminal."""
    if not (sys.stderr.isatty() if progress is None else progress):
        yield lambda count: None
        return
    from tqdm import tqdm

    with tqdm(total=rows, desc="preparing", unit="row", unit_scale=True, delay=2, leave=False) as b:
        yield b.update


def layout_for(device: torch.device, channels: int, screen: str) -> Layout | None:
    """How codes should lie for searches on this device; None for no codes.

    Raises ValueError where int8 is demanded but cannot be had exactly.
    """
    fits = channels <= _bounds_int8.MAX_CHANNELS
    if screen != "float" and fits and device.type == "cuda":
        layout = _layout_on_cuda(device)
        if layout is not None:
            return layout
    if screen == "float" or (screen == "auto" and not (fits and _products.is_fast(device.type))):
        return None
    if not (fits and _products.is_exact(device.type)):
        raise ValueError(
            f"screen must not be 'int8' where integer products are not exact, nor beyond "
            f"{_bounds_int8.MAX_CHANNELS} channels; got {channels} channels on {device}"
        )
    return _int8.LAYOUT if device.type == "cpu" else _int8.LAYOUT_CUDA


def _layout_on_cuda(device: torch.device) -> Layout | None:
    try:
        from . import _triton_chip, _triton_int8
    except ImportError:  # no triton for this platform
        return None
    return _triton_int8.LAYOUT if _triton_chip.is_supported(device) else None
