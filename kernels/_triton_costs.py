"""What each stage of a search by the Triton body should cost, in device time and launches.

Pure arithmetic on a plan, the sizes and a chip's data sheet; the constants are assumptions. Kernels
belong to the stages that bench/stages.py puts them in.
"""

from dataclasses import dataclass
from functools import cached_property, reduce
from operator import add

from ._chips import Chip
from ._triton_plan import CodesPlan, TritonPlan, pad
from ._triton_scan_model import CACHE_SHARE, LATENCY, Screen, scan_seconds
from ._triton_tiles import TILE_P, WIDTH

ROW_BLOCKS = 4
"""Blocks on a multiprocessor of the kernels that hold fp64 rows: 4 warps, 96 to 127 registers."""

GAP = 2e-6  # seconds of the device that a kernel takes beside its work
TOPK_LAUNCHES = 8  # kernels of one torch.topk
DIGIT_BITS = 8  # that torch.topk settles each time it reads its input
CODING_COPIES = 20  # fp64 numbers read or written per coordinate when queries are coded, by torch
CODING_LAUNCHES = 30


@dataclass(frozen=True)
class Cost:
    """Seconds of the device, and kernels that the host launches."""

    seconds: float
    launches: int

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.seconds + other.seconds, self.launches + other.launches)

    def times(self, n: int) -> "Cost":
        return Cost(self.seconds * n, self.launches * n)


NOTHING = Cost(0.0, 0)


@dataclass(frozen=True)
class Pass:
    """Some queries against some prototypes: what runs for one launch of a scan."""

    plan: TritonPlan | CodesPlan
    queries: int
    prototypes: int
    channels: int
    k: int
    metric: str
    element_size: int
    chip: Chip
    survivors: float  # groups per query that reach its threshold
    repaired: float  # share of the queries whose proof fails

    @cached_property
    def groups(self) -> int:
        return pad(self.prototypes, TILE_P) // self.plan.group

    @cached_property
    def width(self) -> int:
        return pad(self.channels, WIDTH)

    @cached_property
    def kept(self) -> int:
        return min(self.plan.kept, self.groups)

    @property
    def product_instructions(self) -> int:
        """Of fp64 per element rescored: a conversion, the square, the product; l2: a difference."""
        return 4 if self.metric == "l2" else 3

    def streaming(self, size: float) -> float:
        """Seconds to read or write ``size`` bytes of memory."""
        return size / (self.chip.bandwidth * self.chip.memory_efficiency)

    def moving(self, size: float, reads: float = 1) -> float:
        """Seconds to read ``size`` bytes so often; from the cache, where they stay in it."""
        if size <= CACHE_SHARE * self.chip.cache_bytes:
            return size * reads / self.chip.cache_bandwidth
        return self.streaming(size * reads)

    def fp64(self, instructions: float) -> float:
        return instructions / (self.chip.fp64 / 2)

    def chains(self, programs: float, loads: float) -> float:
        """Seconds of programs that each wait for so many loads, one after another."""
        waves = -(-programs // (self.chip.multiprocessors * ROW_BLOCKS))
        return waves * loads * LATENCY


def cost(seconds: float, launches: int) -> Cost:
    return Cost(seconds + launches * GAP, launches)


def screen_of(plan: TritonPlan | CodesPlan) -> Screen:
    if isinstance(plan, CodesPlan):
        return "int8"
    return "tf32" if plan.raw else "fp16"


def prepare_queries(work: Pass) -> Cost:
    """Q rows widened to fp64, read twice, and written for the screen.

    max(bytes / bandwidth, fp64 instructions / rate, waves x 2 C / 64 loads one after another),
    with Q C (element + 8 + element of the screen) bytes and 5 instructions per coordinate: two
    conversions up, one down, a multiply-add and a product. Codes of queries are made by torch, in
    fp64: CODING_COPIES more numbers moved per coordinate, half as many instructions.
    """
    block_q = work.plan.tile.block_q
    rows = pad(work.queries, block_q)
    size = (
        rows * work.width * (work.element_size + 8 + (4 if screen_of(work.plan) == "tf32" else 2))
    )
    programs = rows / min(block_q, work.plan.prepare_rows)
    seconds = max(
        work.moving(size),
        work.fp64(5.0 * rows * work.width),
        work.chains(programs, 2 * work.width / WIDTH),
    )
    if not isinstance(work.plan, CodesPlan):
        return cost(seconds, 1)
    coordinates = work.queries * work.channels
    coding = max(
        work.moving(8.0 * coordinates, CODING_COPIES), work.fp64(coordinates * CODING_COPIES / 2)
    )
    return cost(seconds + coding, 1 + CODING_LAUNCHES)


def prepare_prototypes(work: Pass) -> Cost:
    """M rows normalised into fp16, unless the screen reads them as given or has their codes.

    As for queries, with M C (element + 2) bytes; the norms of groups besides. Of codes only a word
    per group is made, of which members may match.
    """
    if isinstance(work.plan, CodesPlan):
        return cost(work.streaming(3.0 * work.prototypes + 4.0 * work.groups), 1)
    if work.plan.raw:
        return NOTHING
    rows = pad(work.prototypes, work.plan.tile.block_p)
    seconds = max(
        work.streaming(rows * work.width * (work.element_size + 2)),
        work.fp64(5.0 * rows * work.width),
        work.chains(rows / work.plan.prepare_rows, 2 * work.width / WIDTH),
    )
    return cost(seconds, 3)


def scan(work: Pass) -> Cost:
    """:func:`scan_seconds` of the plan's tile."""
    plan = work.plan
    seconds = scan_seconds(
        plan.tile, screen_of(plan), work.queries, work.prototypes, work.channels, work.chip,
        work.metric, work.element_size, plan.group,
    )  # fmt: skip
    return cost(seconds, 1)


def select(work: Pass) -> Cost:
    """The best groups, and the best of their members' keys, by torch.topk: a radix select.

    4 Q G bytes of bounds read once for each of 32 / DIGIT_BITS digits and once more, 24 Q kept to
    sort; 8 Q (k + groups rescored x GROUP) bytes of keys, of 64 bits. Thresholds besides.
    """
    bounds = work.moving(4.0 * work.queries * work.groups, 32 / DIGIT_BITS + 1)
    kept = work.moving(24.0 * work.queries * work.kept)
    both = cost(bounds + kept, TOPK_LAUNCHES + 1)
    for groups, _, _ in _rounds(work):
        keys = 8.0 * work.queries * (work.k + groups * work.plan.group)
        both += cost(work.moving(keys, 64 / DIGIT_BITS + 1), TOPK_LAUNCHES)
    return both


def order(work: Pass) -> Cost:
    """The sort of Q k keys, once all prototypes were seen: about four reads and writes."""
    return cost(work.moving(8.0 * work.queries * work.k, 8), 6)


def rescore(work: Pass) -> Cost:
    """Groups that reach the threshold, from the originals in fp64: for each round of them

    max(bytes / bandwidth, fp64 instructions / rate, loads one after another).

    Q live GROUP rows are gathered: from memory, or once at most where all prototypes stay in the
    cache. 128 instructions fold the sums of a row.
    """
    return reduce(add, (_rescored(work, live, strips) for _, live, strips in _rounds(work)))


def _rounds(work: Pass) -> list[tuple[int, float, int]]:
    """Groups per query, how many of them reach the threshold, and programs that share them.

    Codes: the first groups in one go, then those of the others that reach their k-th score.
    """
    plan, kept, live = work.plan, work.kept, min(work.survivors, work.kept)
    if not isinstance(plan, CodesPlan) or plan.first >= kept:
        return [(kept, live, kept)]
    first = plan.first
    return [
        (first, min(first, live), first),
        (kept - first, max(0.0, live - first), plan.strips),
    ]


def _rescored(work: Pass, live: float, strips: int) -> Cost:
    rows = work.queries * live * work.plan.group
    gathered, given = (
        float(n * work.channels * work.element_size) for n in (rows, work.prototypes)
    )
    if given <= CACHE_SHARE * work.chip.cache_bytes:
        read = max(work.streaming(min(gathered, given)), gathered / work.chip.cache_bandwidth)
    else:
        read = work.streaming(gathered)
    instructions = rows * (work.channels * work.product_instructions + 128)
    packs = live / work.plan.rescore_pack
    programs = min(packs, strips) * work.queries
    chain = max(1.0, packs / strips) * work.width / WIDTH
    return cost(max(read, work.fp64(instructions), work.chains(programs, chain)), 3)


def repair(work: Pass) -> Cost:
    """One program per query reads its k keys and its witness: three loads one after another.

    A query whose proof fails also reads its bounds, and rescores the groups that were not kept,
    one after another in its one program.
    """
    failed, extra = work.queries * work.repaired, max(1.0, work.survivors - work.kept)
    elements = failed * extra * work.plan.group * work.channels
    read = work.moving(8.0 * work.queries * work.k + 4.0 * failed * work.groups)
    chains = work.chains(work.queries, 3)
    if failed:
        chain = work.groups / work.plan.repair_groups + extra * work.width / WIDTH
        chains += work.chains(failed, chain)
    read += work.streaming(elements * work.element_size)
    return cost(max(read, work.fp64(elements * work.product_instructions), chains), 1)
