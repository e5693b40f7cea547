"""What searches hold at their worst beside inputs and outputs, against what they may hold."""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from measuring.ledger import described
from measuring.memory import MIB, peak_mib
from measuring.shapes import Shape, make
from measuring.timing import within

from ..figures import figure, write

PART = "memory"
WITHIN = "MiB of workspace"  # the unit of what WORKSPACE_BYTES bounds
SHAPES = (
    Shape(1, 1_000_000, 128),
    Shape(1024, 1_000_000, 128, 100),
    Shape(20_000, 262144, 128),
    Shape(2000, 262144, 512, 1000),
    Shape(8192, 65536, 256, dtype="bfloat16"),
)
TINY = (Shape(20, 2000, 64, 3),)


def run(device: torch.device, folder: Path, minutes: float, tiny: bool = False) -> int:
    """1 if a search held more than it may, or failed."""
    from flashmatch import kernels

    allowed, failed = kernels.WORKSPACE_BYTES / MIB, 0
    for shape in within(minutes, TINY if tiny else SHAPES):
        for what, call, returned in _calls(shape, device):
            try:
                call()  # what compiling and first calls allocate is not workspace
                peak = peak_mib(call, device)
                held = None if peak is None else max(0.0, peak - returned / MIB)
                bounded = not what.startswith("building")
                over = bounded and held is not None and held > allowed
                status = f"over {allowed:g}" if over else "ok"
                unit = WITHIN if bounded else "MiB"
            except Exception as error:
                held, unit, status = None, "MiB", described(error)
            failed += status != "ok"
            write([figure(device, PART, what, shape, held, unit, status)], folder)
        torch.cuda.empty_cache()
    return 1 if failed else 0


def _calls(shape: Shape, device: torch.device) -> Iterator[tuple[str, Callable[[], object], int]]:
    """What, the call, and the bytes that it returns."""
    import flashmatch

    queries, prototypes = make(shape, device)
    matches = 12 * shape.Q * shape.k
    yield "topk", lambda: flashmatch.topk(queries, prototypes, shape.k), matches
    bank = flashmatch.PrototypeBank(prototypes)
    yield "building a bank", lambda: flashmatch.PrototypeBank(prototypes), bank.nbytes
    yield "bank", lambda: bank.topk(queries, shape.k), matches
    if device.type == "cuda":
        host = prototypes.cpu()
        yield "topk, on the host", lambda: flashmatch.topk(queries, host, shape.k), matches
