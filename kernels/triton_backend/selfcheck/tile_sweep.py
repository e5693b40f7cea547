"""Every tile that a card may run, on one shape: whether it is right, and how long its scan takes.

What is timed is one launch as a search would make it: a block of queries against a chunk of
prototypes, both as large as the plan has them. Tiles take turns, and the cache is flushed between
them.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from time import perf_counter

import torch
from torch import Tensor
from triton.errors import TritonError

from ...codes.frame import fitted_frame
from ...codes.pages import Codes
from ...contract.request import Request
from ...storage.clean_rows import screen_norms
from .. import bank_search, chips, stages
from ..bank_search import LAYOUT
from ..plan import Prototypes, choose_plan, pad
from ..query_block import Best, Entries, QueryBlock, Run, whole_mask
from ..tiles import Tile, int8_tiles
from ..tuned_tiles import Row

Scan = Callable[[Tile], Tensor]
REQUEST = Request(10, "cosine")
ROUNDS = 9
FLUSH_BYTES = 2**28
"""Of the largest cache, gfx942's; clearing it also hides launches from the clock."""
PASSED_AT = 3.0  # standard deviations of a cosine: of 700 codes one, as late in a search
MARGIN = 0.02  # by which a tile must beat the one of untuned plans


@dataclass(frozen=True)
class Trial:
    """One tile; ``seconds`` of its scan, or None where ``status`` says why it is left out."""

    tile: Tile
    seconds: float | None
    status: str = "ok"


@dataclass(frozen=True)
class Case:
    """All tiles on one shape, first the one that untuned plans take."""

    channels: int
    queries: int  # of the search
    launched: tuple[int, int]  # queries and prototypes of the launch that was timed
    trials: tuple[Trial, ...]

    @property
    def best(self) -> Trial:
        """The fastest, if that is by more than MARGIN faster than the first."""
        timed = [(trial.seconds, trial) for trial in self.trials if trial.seconds is not None]
        (seconds, first), (least, fastest) = timed[0], min(timed, key=lambda pair: pair[0])
        return first if least >= (1 - MARGIN) * seconds else fastest

    @property
    def row(self) -> Row:
        return Row(self.channels, self.queries, self.best.tile)


def sweep(
    device: torch.device, channels: Iterable[int], queries: Iterable[int], rows: int, workspace: int
) -> Iterator[Case]:
    """Every shape, with at most ``rows`` prototypes, in whole pages."""
    rows, query_counts = pad(rows, LAYOUT.span), list(queries)
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        for c in channels:
            for q in query_counts:
                yield _case(q, rows, c, device, workspace)


def _case(queries: int, rows: int, channels: int, device: torch.device, workspace: int) -> Case:
    chip, width = chips.chip(device), LAYOUT.width(channels)
    given = Prototypes(rows, channels, width, LAYOUT.span)
    plan = choose_plan(queries, given, REQUEST.k, chip=chip, workspace=workspace)
    count, rows = plan.query_rows, plan.chunk_rows
    q, p = _unit_vectors(count, channels, device), _unit_vectors(rows, channels, device)
    codes = Codes(fitted_frame(p[:2048], REQUEST.metric), LAYOUT, rows, channels)
    codes.write(0, p, screen_norms(p))
    best, mask = Best.empty(q, REQUEST.k), whole_mask(q, rows, REQUEST)
    block = bank_search.coded_block(q, codes.frame, REQUEST, plan, best)
    block.thresholds.fill_(PASSED_AT / channels**0.5)
    run = bank_search.run_of(codes, slice(0, codes.pages), p, mask, plan)
    trials = _trials(partial(passed_by, block, run), int8_tiles(width, chip.arch), device)
    return Case(channels, queries, (count, rows), trials)


def passed_by(block: QueryBlock, run: Run, tile: Tile) -> Tensor:
    """(Qpad,) int64: how many entries a scan of all codes by this tile has for each query."""
    plan = block.plan
    capacity = max(1, plan.capacity * plan.tile.block_p // tile.block_p)
    block = replace(block, plan=replace(plan, tile=tile, capacity=capacity))
    entries, words = Entries.of(block), stages.words_of(block, run)
    entries.counts.fill_(-1)  # memory of another tile's counts may be here
    stages.append(block, run, words, entries, 0, run.originals.positions // tile.block_p)
    return entries.counts.view(block.padded, -1).sum(1)


def _unit_vectors(count: int, channels: int, device: torch.device) -> Tensor:
    """(count, channels) fp16, of any direction."""
    generator = torch.Generator(device).manual_seed(count)
    vectors = torch.randn(count, channels, generator=generator, device=device, dtype=torch.float16)
    return vectors.div_(torch.linalg.vector_norm(vectors, dim=1, keepdim=True))


def _trials(scan: Scan, tiles: tuple[Tile, ...], device: torch.device) -> tuple[Trial, ...]:
    """Each tile held against the plainest, then those that agree timed."""
    right = scan(tiles[0])
    status = {tile: _status(scan, tile, right) for tile in tiles}
    agreed = [tile for tile in tiles if status[tile] == "ok"]
    seconds = dict(zip(agreed, _seconds(scan, agreed, device), strict=True))
    return tuple(Trial(tile, seconds.get(tile), status[tile]) for tile in tiles)


def _status(scan: Scan, tile: Tile, right: Tensor) -> str:
    try:
        if torch.equal(scan(tile), right):
            return "ok"
    except (RuntimeError, TritonError) as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return "what it gives differs from the plainest tile's"


def _seconds(scan: Scan, tiles: list[Tile], device: torch.device) -> list[float]:
    """The median for each tile, taken in turns."""
    on_device = device.type == "cuda"
    flush = torch.empty(FLUSH_BYTES if on_device else 0, dtype=torch.int8, device=device)
    clocks: list[list[Callable[[], float]]] = [[] for _ in tiles]
    for _ in range(ROUNDS if on_device else 1):
        for tile, own in zip(tiles, clocks, strict=True):
            flush.zero_()
            own.append(_timed(scan, tile, on_device))
    if on_device:
        torch.cuda.synchronize(device)
    return [median(clock() for clock in own) for own in clocks]


def _timed(scan: Scan, tile: Tile, on_device: bool) -> Callable[[], float]:
    """Launch a scan. What is returned tells its seconds, once the device is done."""
    if not on_device:
        started = perf_counter()
        scan(tile)
        elapsed = perf_counter() - started
        return lambda: elapsed
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    scan(tile)
    stop.record()
    return lambda: start.elapsed_time(stop) / 1e3
