"""What slice A launches: checks of all variants, the shapes of the stages, a kernel of nothing.

The stages search tensors of the meta device, of their own sizes: shapes, strides, types and
alignment are there, which is all that the JIT looks at, and the plans are those of the chip. The
checks run on the CPU, and find everything wrong, since no kernel does.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from itertools import islice

import torch

from flashmatch import kernels
from flashmatch.kernels.codes.frame import Frame
from flashmatch.kernels.codes.pages import Codes
from flashmatch.kernels.contract.chunks import Rows
from flashmatch.kernels.contract.request import Request
from flashmatch.kernels.triton_backend import bank_search, chips, vector_search
from flashmatch.kernels.triton_backend.selfcheck.checks import variants
from flashmatch.kernels.triton_backend.selfcheck.checks.all_checks import failures
from flashmatch.kernels.triton_backend.selfcheck.checks.variants import Variant
from measuring.shapes import Shape

from ..probes import stages
from .recording import Job, nvidia, recorded

MULTIPROCESSORS = 132  # of an H100 and H200; only how many programs are launched follows from it
SECONDS = {
    "settle_kernel": 2.5, "code_queries_kernel": 0.7, "scan_rows_kernel": 0.69,
    "settle_all_kernel": 0.6, "fit_origin_kernel": 0.55, "code_prototypes_kernel": 0.4,
    "order_rows_kernel": 0.4, "scan_codes_kernel": 0.37, "scale_queries_kernel": 0.27,
    "pack_mask_kernel": 0.23, "rotate_queries_kernel": 0.3,
}  # fmt: skip
"""About what each takes to compile, of one core (Intel Xeon Sapphire Rapids, Triton 3.9; scans of
codes and masks 3.6; rotation on an AMD EPYC)."""
Search = Callable[[], object]


def jobs(arch: int, quick: bool = False) -> list[Job]:
    """Every specialisation that slice A launches on this architecture, the slowest first.

    ``quick``: two of a single search, for a rehearsal.
    """
    return list(_launched(arch, quick)[-2 if quick else 0 :])


@cache
def _launched(arch: int, quick: bool) -> tuple[Job, ...]:
    found: dict[Job, None] = {}
    with _planned_for(arch) as chip:
        for search in islice(searches(chip), 1 if quick else None):
            found |= dict.fromkeys(recorded(search, nvidia(arch)))
    return tuple(sorted(found, key=lambda job: (-SECONDS.get(job.kernel, 0.0), job.name)))


def searches(chip: chips.Chip) -> Iterator[Search]:
    """Calls that launch all there is; a variant that is searched with is checked before."""
    checked, made = dict.fromkeys(variants.defaults(chip)), []
    for shape in stages.SHAPES:
        for used, search in (_of_vectors(shape), _of_codes(shape)):
            checked |= dict.fromkeys(used)
            made.append(search)
    yield from (partial(failures, variant, torch.device("cpu")) for variant in checked)
    yield from made
    yield _launch_nothing


def _of_vectors(shape: Shape) -> tuple[list[Variant], Search]:
    queries, prototypes = _made(shape)
    request = Request(shape.k, shape.metric, None, None, exclude=True)
    given = queries, [prototypes], request
    plan = vector_search.plan_of_vectors(*given, kernels.WORKSPACE_BYTES)
    used = variants.of_vectors(*given, plan)
    return used, partial(vector_search.search_vectors, *given, plan)


def _of_codes(shape: Shape) -> tuple[list[Variant], Search]:
    queries, prototypes = _made(shape)
    frame = Frame(shape.metric, torch.zeros(shape.C), None)
    frame.origin = frame.origin.to("meta")
    codes = Codes(frame, bank_search.LAYOUT, shape.M, shape.C)
    codes.count = shape.M
    request, rows = Request(shape.k, shape.metric, None, None, exclude=True), Rows([prototypes])
    plan = bank_search.plan_of_codes(queries, codes, request, kernels.WORKSPACE_BYTES)
    used = variants.of_codes(queries, rows.chunks, request, plan)
    return used, partial(bank_search.search_codes, queries, codes, rows, request, plan)


def _made(shape: Shape) -> tuple[torch.Tensor, torch.Tensor]:
    def rows(count: int) -> torch.Tensor:
        return torch.empty(count, shape.C, dtype=shape.torch_dtype, device="meta")

    return rows(shape.Q), rows(shape.M)


def _launch_nothing() -> None:
    from ..probes.empty_kernel import empty_kernel

    empty_kernel[(1,)](torch.empty(1, device="meta"))


@contextmanager
def _planned_for(arch: int) -> Iterator[chips.Chip]:
    before, chip = chips.chip, chips.Chip(arch, MULTIPROCESSORS)
    chips.chip = lambda device: chip
    try:
        yield chip
    finally:
        chips.chip = before
