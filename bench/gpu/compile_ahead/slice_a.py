"""What slice A launches: the selfcheck, the shapes of the stages, and the kernel that does nothing.

The stages search tensors of the meta device, of their own sizes: shapes, strides, types and
alignment are there, which is all that the JIT looks at, and the plans are those of the chip.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch

from flashmatch import kernels
from flashmatch.kernels.codes.frame import Frame
from flashmatch.kernels.codes.pages import Codes
from flashmatch.kernels.contract.chunks import Rows
from flashmatch.kernels.contract.request import Request
from flashmatch.kernels.triton_backend import chips, float_search, int8_search
from measuring.shapes import Shape

from ..probes import stages
from .recording import Job, nvidia, recorded

MULTIPROCESSORS = 132  # of an H100 and H200; only how many programs are launched follows from it
CHECKED = (("cosine", "float32"), ("dot", "bfloat16"), ("l2", "float16"))
Search = Callable[[], object]


SECONDS = {
    "repair_kernel": 2.0, "rescore_kernel": 1.5, "scan_codes_kernel": 1.4, "scan_kernel": 1.2,
    "scan_raw_kernel": 1.0, "prepare_queries_kernel": 0.9, "prepare_prototypes_kernel": 0.8,
    "scan_few_codes_kernel": 0.6, "pack_mask_kernel": 0.5, "threshold_kernel": 0.3,
    "kth_kernel": 0.2, "empty_kernel": 0.1,
}  # fmt: skip


def jobs(arch: int, quick: bool = False) -> list[Job]:
    """Every specialisation that slice A launches on this architecture, the slowest first.

    ``quick``: the two that compile fastest, for a rehearsal.
    """
    found: dict[Job, None] = {}
    with _planned_for(arch):
        for search in searches():
            found |= dict.fromkeys(recorded(search, nvidia(arch)))
    slowest_first = sorted(found, key=lambda job: (-SECONDS.get(job.kernel, 0.0), job.name))
    return slowest_first[-2:] if quick else slowest_first


def searches() -> Iterator[Search]:
    yield from _checks()
    for shape in stages.SHAPES:
        yield partial(_search_vectors, shape)
        yield partial(_search_codes, shape)
    yield _launch_nothing


def _checks() -> Iterator[Search]:
    for queries in (7, 20):
        for metric, dtype in CHECKED:
            shape = Shape(queries, 2400, 64, 10, metric, dtype)
            yield partial(_search_vectors, shape)
            yield partial(_search_codes, shape)
    yield partial(_search_vectors, Shape(20, 2400, 64), pairs=True)
    yield partial(_search_codes, Shape(20, 2400, 64), pairs=True)


def _search_vectors(shape: Shape, pairs: bool = False) -> None:
    queries, prototypes = _made(shape)
    request = _request(shape, pairs)
    float_search.search_vectors(queries, [prototypes], request, kernels.WORKSPACE_BYTES)


def _search_codes(shape: Shape, pairs: bool = False) -> None:
    queries, prototypes = _made(shape)
    frame = Frame(shape.metric, torch.zeros(shape.C), None)
    frame.origin = frame.origin.to("meta")
    codes = Codes(frame, int8_search.LAYOUT, shape.M, shape.C)
    codes.count = shape.M
    request = _request(shape, pairs)
    rows = Rows([prototypes])
    int8_search.search_codes(queries, codes, rows, request, kernels.WORKSPACE_BYTES)


def _request(shape: Shape, pairs: bool) -> Request:
    mask = torch.empty(shape.Q, shape.M, dtype=torch.bool, device="meta") if pairs else None
    return Request(shape.k, shape.metric, mask, None, exclude=True)


def _made(shape: Shape) -> tuple[torch.Tensor, torch.Tensor]:
    def rows(count: int) -> torch.Tensor:
        return torch.empty(count, shape.C, dtype=shape.torch_dtype, device="meta")

    return rows(shape.Q), rows(shape.M)


def _launch_nothing() -> None:
    from ..probes.empty_kernel import empty_kernel

    empty_kernel[(1,)](torch.empty(1, device="meta"))


@contextmanager
def _planned_for(arch: int) -> Iterator[None]:
    before = chips.chip
    chips.chip = lambda device: chips.Chip(arch, MULTIPROCESSORS)
    try:
        yield
    finally:
        chips.chip = before
