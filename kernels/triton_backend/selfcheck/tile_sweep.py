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
from typing import TypeVar

import torch
from torch import Tensor
from triton.errors import TritonError

from ...codes.frame import fitted_frame
from ...codes.pages import Codes
from ...contract.request import Request
from ...proofs import fp16
from ...storage.clean_rows import screen_norms
from .. import chips, float_search, int8_search
from ..int8_search import Int8Block, Run
from ..plan import choose_plan, pad
from ..query_block import Best, QueryBlock, RunningTopK, whole_mask
from ..rounds import choose_codes_plan
from ..tiles import WIDTH, Screen, Tile, fp16_tiles, int8_tiles
from ..tuned_tiles import Row

Scan = Callable[[Tile], Tensor]
Block = TypeVar("Block", bound=QueryBlock)
REQUEST = Request(10, "cosine")
SCREENS: tuple[Screen, ...] = ("fp16", "int8")
ROUNDS = 9
FLUSH_BYTES = (
    2**28
)  # of the largest cache, gfx942's; clearing it also hides launches from the clock
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

    screen: Screen
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
        return Row(self.screen, self.channels, self.queries, self.best.tile)


def sweep(
    device: torch.device, channels: Iterable[int], queries: Iterable[int], rows: int, workspace: int
) -> Iterator[Case]:
    """Every screen and shape, with at most ``rows`` prototypes, in whole pages."""
    rows, query_counts = pad(rows, int8_search.LAYOUT.span), list(queries)
    shapes = [(c, q) for c in channels for q in query_counts]
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        for screen in SCREENS:
            for c, q in shapes:
                yield (_fp16 if screen == "fp16" else _int8)(q, rows, c, device, workspace)


def _fp16(queries: int, rows: int, channels: int, device: torch.device, workspace: int) -> Case:
    chip = chips.chip(device)
    plan = choose_plan(
        queries, rows, channels, REQUEST.k,
        half=True, raw=False, chip=chip, workspace=workspace,
    )  # fmt: skip
    count = plan.query_rows
    rows = min(rows, pad(plan.chunk_rows, int8_search.LAYOUT.span))  # whole tiles of any kind
    q, p = _unit_vectors(count, channels, device), _unit_vectors(rows, channels, device)
    best, mask = RunningTopK.empty(q, REQUEST.k), whole_mask(q, rows, REQUEST)
    block = float_search.prepare_vectors(q, REQUEST, plan, best)
    chunk = float_search.prepare_chunk(p, 0, mask, REQUEST, plan, best.flags)
    # The products of either tile lie within delta of the real ones.
    slack = 2 * fp16.prepared_delta(pad(channels, WIDTH)) * fp16.WIDEN

    def scan_copies(tile: Tile) -> Tensor:
        return float_search.scan_chunk(_cut(block, tile), chunk)

    trials = _trials(scan_copies, fp16_tiles(chip.arch), slack, device)
    return Case("fp16", channels, queries, (count, rows), trials)


def _int8(queries: int, rows: int, channels: int, device: torch.device, workspace: int) -> Case:
    chip, layout = chips.chip(device), int8_search.LAYOUT
    width = layout.width(channels)
    plan = choose_codes_plan(
        queries, rows // layout.span, channels, REQUEST.k, span=layout.span, width=width,
        chip=chip, workspace=workspace,
    )  # fmt: skip
    count, rows = plan.query_rows, plan.chunk_pages * layout.span
    q, p = _unit_vectors(count, channels, device), _unit_vectors(rows, channels, device)
    codes = Codes(fitted_frame(p[:2048], REQUEST.metric), layout, rows, channels)
    codes.write(0, p, screen_norms(p))
    best, mask = Best.empty(q, REQUEST.k), whole_mask(q, rows, REQUEST)
    block = int8_search.code_queries(q, codes.frame, REQUEST, plan, best)
    block.thresholds.fill_(PASSED_AT / channels**0.5)
    run = int8_search.run_of(codes, slice(0, codes.pages), p, mask, plan)
    trials = _trials(partial(passed_by, block, run), int8_tiles(width, chip.arch), 0.0, device)
    return Case("int8", channels, queries, (count, rows), trials)


def passed_by(block: Int8Block, run: Run, tile: Tile) -> Tensor:
    """(Qpad,) fp32: how many entries a scan of all codes by this tile has for each query."""
    plan = block.plan
    capacity = max(1, plan.capacity * plan.tile.block_p // tile.block_p)
    block = replace(block, plan=replace(plan, tile=tile, capacity=capacity))
    entries, words = block.entries(), int8_search.words_of(block, run)
    int8_search.append(block, run, words, entries, 0, len(run.codes) // tile.block_p)
    return entries.counts.view(len(block.codes), -1).sum(1, dtype=torch.float32)


def _cut(block: Block, tile: Tile) -> Block:
    """The same block, whose scan is cut into these tiles."""
    return replace(block, plan=replace(block.plan, tile=tile))


def _unit_vectors(count: int, channels: int, device: torch.device) -> Tensor:
    """(count, channels) fp16, of any direction."""
    generator = torch.Generator(device).manual_seed(count)
    vectors = torch.randn(count, channels, generator=generator, device=device, dtype=torch.float16)
    return vectors.div_(torch.linalg.vector_norm(vectors, dim=1, keepdim=True))


def _trials(
    scan: Scan, tiles: tuple[Tile, ...], slack: float, device: torch.device
) -> tuple[Trial, ...]:
    """Each tile held against the plainest, then those that agree timed."""
    right = scan(tiles[0])
    status = {tile: _status(scan, tile, right, slack) for tile in tiles}
    del right
    agreed = [tile for tile in tiles if status[tile] == "ok"]
    seconds = dict(zip(agreed, _seconds(scan, agreed, device), strict=True))
    return tuple(Trial(tile, seconds.get(tile), status[tile]) for tile in tiles)


def _status(scan: Scan, tile: Tile, right: Tensor, slack: float) -> str:
    # The allocator hands this memory to the scan next: a bound that the scan forgets is NaN.
    torch.full_like(right, torch.nan)
    try:
        found = scan(tile)
        same = torch.equal(found, right)
        if same or found.sub_(right).abs_().amax() <= slack:  # false where a bound is NaN
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
