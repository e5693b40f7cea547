"""How long a search by the Triton body should take, by stage: predictions, never measurements.

Everything follows from the plan, the sizes and a chip's data sheet; what is assumed beside those is
a constant here, in _triton_costs or in _triton_scan_model. Masks, copies from another device and
the first call's compilation are not counted.
"""

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from functools import reduce
from math import log, sqrt
from operator import add

from . import _triton_costs as costs
from ._chips import Chip
from ._triton_costs import NOTHING, Cost, Pass
from ._triton_plan import CodesPlan, TritonPlan

PAGE = 1024  # rows, of _triton_int8.LAYOUT

_Parts = dict[int, int]


@dataclass(frozen=True)
class Stages:
    """Predicted seconds of a search."""

    prepare: float
    scan: float
    select: float
    rescore: float
    repair: float

    @property
    def total(self) -> float:
        return self.prepare + self.scan + self.select + self.rescore + self.repair


@dataclass(frozen=True)
class Search:
    """A measured search, for :func:`fit`: what :func:`stages` takes, and what it took."""

    plan: TritonPlan | CodesPlan
    queries: int
    prototypes: int
    channels: int
    k: int
    metric: str
    element_size: int
    stages: Stages


def stages(
    plan: TritonPlan | CodesPlan,
    queries: int,
    prototypes: int,
    channels: int,
    k: int,
    metric: str,
    element_size: int,
    chip: Chip,
    *,
    survivors: float | None = None,
    repaired: float = 0.0,
) -> Stages:
    """Predicted stages of a search of (M, C) prototypes of ``element_size`` bytes an element.

    ``survivors``: groups per query that reach the true k-th score; None: :func:`survivors_of`.
    ``repaired``: share of the queries whose proof fails. The threshold rises from chunk to chunk:
    of the m-th prototype on, a share of k / m is among the best so far, so that 1 + log(M / chunk)
    times as many survive, evenly spread.

    The host runs ahead of the device. Where all launches take it longer than the device needs, each
    stage waits in proportion to its launches.
    """
    if survivors is None:
        survivors = survivors_of(plan, k, channels, metric)
    survivors *= 1 + log(max(1.0, prototypes / chunk_rows(plan)))
    parts = _costs(
        Pass(
            plan, queries, prototypes, channels, k, metric, element_size, chip, survivors, repaired
        )
    )
    whole = reduce(add, parts, NOTHING)
    wait = max(0.0, whole.launches * chip.launch - whole.seconds) / whole.launches
    return Stages(*(part.seconds + part.launches * wait for part in parts))


def _costs(search: Pass) -> tuple[Cost, ...]:
    """Of each stage: codes are searched block by block, others chunk by chunk for every block."""
    chunks = _parts(search.prototypes, chunk_rows(search.plan))
    blocks = _parts(search.queries, search.plan.query_rows)
    n_chunks, n_blocks = sum(chunks.values()), sum(blocks.values())

    def over(stage: Callable[[Pass], Cost], queries: _Parts, prototypes: _Parts) -> Cost:
        passes = (
            stage(
                replace(
                    search,
                    queries=q,
                    prototypes=m,
                    survivors=search.survivors * m / search.prototypes,
                )
            ).times(q_times * m_times)
            for q, q_times in queries.items()
            for m, m_times in prototypes.items()
        )
        return reduce(add, passes, NOTHING)

    by_block = isinstance(search.plan, CodesPlan)
    again = 1 if by_block or n_blocks == 1 else n_chunks
    code_passes = n_blocks if by_block else 1
    every_query, every_row = {search.queries: 1}, {search.prototypes: 1}
    return (
        over(costs.prepare_queries, blocks, every_row).times(again)
        + over(costs.prepare_prototypes, every_query, chunks).times(code_passes),
        over(costs.scan, blocks, chunks),
        over(costs.select, blocks, chunks) + over(costs.order, blocks, every_row),
        over(costs.rescore, blocks, chunks),
        over(costs.repair, blocks, chunks),
    )


def survivors_of(
    plan: TritonPlan | CodesPlan, k: int, channels: int, metric: str = "cosine"
) -> float:
    """Groups per query that reach its k-th score, as counted on a CPU for Gaussian data.

    The fp16 screen: 11 to 14 for k = 10, 105 to 120 for k = 100 (131,072 x 256; TF32 is taken to be
    the same). Codes, 131,072 x 128, x 512 and x 768: 18, 38 and 51 for k = 10; 166, 302 and 413 for
    k = 100; l2: 33, 65 and 78; 211, 317 and 394. So about k sqrt(C) / 6, and half as many again for
    l2. Clustered data has ten times as many, a few huge coordinates forty times.
    """
    if not isinstance(plan, CodesPlan):
        return 1.1 * k + 2
    return k * sqrt(channels) / 6 * (1.5 if metric == "l2" else 1)


def chunk_rows(plan: TritonPlan | CodesPlan) -> int:
    return plan.chunk_pages * PAGE if isinstance(plan, CodesPlan) else plan.chunk_rows


def fit(searches: Sequence[Search], chip: Chip) -> Chip:
    """The chip with the two efficiencies under which ``searches`` are predicted best.

    Least squares of predicted less measured stages, relative to the measured total, on a grid that
    is refined around its best point. What the model leaves out ends up in these factors, so what
    remains of the differences matters as much.
    """
    if not searches:
        raise ValueError("searches must hold at least one that was measured; got none")
    low, high, best = (0.02, 0.02), (1.0, 1.0), chip
    for _ in range(9):
        tensor, memory = (_grid(*ends) for ends in zip(low, high, strict=True))
        candidates = (
            replace(chip, tensor_efficiency=t, memory_efficiency=m) for t in tensor for m in memory
        )
        best = min(candidates, key=lambda candidate: _misfit(searches, candidate))
        centre = best.tensor_efficiency, best.memory_efficiency
        reach = [(b - a) / 6 for a, b in zip(low, high, strict=True)]
        low = tuple(max(0.02, c - r) for c, r in zip(centre, reach, strict=True))
        high = tuple(min(1.0, c + r) for c, r in zip(centre, reach, strict=True))
    return best


def _grid(low: float, high: float) -> list[float]:
    return [low + (high - low) * i / 10 for i in range(11)]


def _misfit(searches: Sequence[Search], chip: Chip) -> float:
    total = 0.0
    for s in searches:
        expected = stages(
            s.plan, s.queries, s.prototypes, s.channels, s.k, s.metric, s.element_size, chip
        )
        pairs = zip(astuple(expected), astuple(s.stages), strict=True)
        total += sum((e - f) ** 2 for e, f in pairs) / s.stages.total**2
    return total


def _parts(total: int, step: int) -> _Parts:
    """Sizes of the parts of ``total`` and how many there are of each."""
    whole, rest = divmod(total, step)
    return {size: n for size, n in ((step, whole), (rest, 1)) if size * n}
