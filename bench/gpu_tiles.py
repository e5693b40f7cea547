"""The tiles that a scan may be cut into on this chip: the same answers from each, and how fast.

Plans take the plainest; which is fastest is for a device to say.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from figures import described, figure, write
from gpu_stages import Kernels, kernels_of
from shapes import Shape, make
from stages import by_stage

PART = "tiles"
SHAPES = (
    Shape(1024, 262144, 512),
    Shape(1024, 1_000_000, 768),
    Shape(8192, 262144, 512),
    Shape(16384, 100_000, 128),
)
TINY = (Shape(20, 700, 64, 3),)
SAMPLES = 5
_NAMES = ("fp16_tiles", "int8_tiles")  # of the plan: tiles by chip, the one that is taken first


def run(
    device: torch.device,
    folder: Path,
    tiny: bool = False,
    kernels: Callable[[Callable[[], object]], Kernels] = kernels_of,
) -> int:
    """A figure per shape, body and tile; 1 if one is wrong or fails."""
    failed = 0
    for shape in TINY if tiny else SHAPES:
        for body, search in _searches(shape, device):
            right = search()
            for i in range(count(device)):
                scan, status = None, "ok"
                try:
                    with tile(i):
                        scan, status = _scan_ms(search, right, kernels)
                except Exception as error:
                    status = described(error)
                failed += status != "ok"
                what = f"{body}, tile {i}: scan"
                write([figure(device, PART, what, shape, scan, "ms", status)], folder)
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return 1 if failed else 0


@contextmanager
def tile(i: int) -> Iterator[None]:
    """Plans take the ``i``-th tile of each kind, or the last there is."""
    from flashmatch.kernels import _triton_plan

    plan: Any = _triton_plan
    kept = {name: getattr(plan, name) for name in _NAMES if hasattr(plan, name)}
    for name, tiles in kept.items():
        setattr(plan, name, _later(tiles, i))
    try:
        yield
    finally:
        for name, tiles in kept.items():
            setattr(plan, name, tiles)


def count(device: torch.device) -> int:
    """How many tiles there are to choose from on this chip."""
    from flashmatch.kernels import _triton_chip, _triton_plan

    plan: Any = _triton_plan
    arch = _triton_chip.arch(device)
    each = [plan.fp16_tiles(arch), plan.int8_tiles(128, arch)] if hasattr(plan, _NAMES[0]) else []
    return max(map(len, each), default=1)


def _later(tiles: Callable[..., tuple], i: int) -> Callable[..., tuple]:
    def later(*arguments: object, **options: object) -> tuple:
        found = tiles(*arguments, **options)
        return found[min(i, len(found) - 1) :]

    return later


def _searches(
    shape: Shape, device: torch.device
) -> Iterator[tuple[str, Callable[[], tuple[Tensor, Tensor]]]]:
    import flashmatch

    queries, prototypes = make(shape, device)
    bank = flashmatch.PrototypeBank(prototypes, nonfinite="exclude")
    yield "bank", lambda: bank.topk(queries, shape.k)
    yield (
        "topk",
        lambda: flashmatch.topk(queries, prototypes, shape.k, nonfinite="exclude"),
    )


def _scan_ms(
    search: Callable[[], tuple[Tensor, Tensor]],
    right: tuple[Tensor, Tensor],
    kernels: Callable[[Callable[[], object]], Kernels],
) -> tuple[float | None, str]:
    """Milliseconds of the scan's kernels, and whether the answer is the one it should be."""
    found = search()
    if not all(map(torch.equal, found, right)):
        return None, "wrong: not the answer of tile 0"
    times = [by_stage(kernels(search))["scan"] for _ in range(SAMPLES)]
    return median(times) or None, "ok" if any(times) else "no kernels were seen"
