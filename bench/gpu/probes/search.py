"""Small searches of awkward shapes through every kernel, each compared with the oracle.

What a sanitizer watches: small enough to be watched, ragged enough to run over an edge. On a CPU
the kernels run where Triton interprets them (TRITON_INTERPRET=1), with the smallest shapes.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from measuring.ledger import described
from measuring.shapes import Shape, make
from measuring.timing import within

from . import tiles

if TYPE_CHECKING:
    from flashmatch.kernels.triton_backend.plan import SearchPlan

METRICS = ("cosine", "dot", "l2")
# topk scores all of the first in fp64; few queries read prototypes as given, where channels come in
# whole tiles, and the others code them. The last is more than one tile each way.
SIZES = ((1, 33, 1, 5), (3, 1009, 128, 7), (67, 2099, 129, 31), (130, 4096, 256, 10))
TINY = ((1, 33, 1, 5), (3, 300, 64, 7), (3, 300, 40, 7))
MASKS = (0, 1, 2)  # dimensions


@dataclass(frozen=True)
class Case:
    body: str  # "topk" or "bank"
    shape: Shape
    mask: int
    tile: int = 0  # of those that the chip may run
    ties: bool = False  # all rows are equal, and there is little room
    heavy: bool = False  # one coordinate is much larger than the others: a bank's frame rotates

    def __str__(self) -> str:
        of = f"{self.shape}, all rows equal" if self.ties else str(self.shape)
        of += ", one coordinate heavy" if self.heavy else ""
        return f"{self.body} {of}, mask of {self.mask} dimensions, tile {self.tile}"


def cases(tiny: bool, tile_count: int = 1) -> Iterator[Case]:
    """Every body, metric, mask and size; dtypes in turn; then the other tiles."""
    dtypes = ("float32", "bfloat16", "float16")
    for i, sizes in enumerate(TINY if tiny else SIZES):
        for j, metric in enumerate(METRICS):
            for mask in (MASKS[j],) if tiny else MASKS:
                shape = Shape(*sizes, metric=metric, dtype=dtypes[(i + j + mask) % 3])
                for body in ("topk", "bank"):
                    yield Case(body, shape, mask)
    rotated = Shape(3, 300, 100, 3, metric="l2") if tiny else Shape(67, 2099, 129, 10)
    yield Case("bank", rotated, 1, heavy=True)
    for body in ("topk", "bank"):
        # Equal rows cannot be excluded: each query loses entries, and is scanned again.
        for few in (5, 17):
            yield Case(body, Shape(few, 300, 64, 3), 0, ties=True)
        for tile in range(1, tile_count):
            shape = Shape(17, 300, 128, 3) if tiny else Shape(300, 5003, 192, 10)
            for mask in (1,) if tiny else (0, 1):  # masks of pairs take the plainest in any case
                yield Case(body, shape, mask, tile)


def run(device: torch.device, minutes: float, tiny: bool = False, first: int | None = None) -> int:
    """1 if an answer was wrong or a search failed; each says so, and the others go on.

    Of all searches the ``first`` only, where that is given.
    """
    wrong = count = 0
    for case in within(minutes, list(cases(tiny, tiles.count(device)))[:first]):
        count += 1
        try:
            with tiles.tile(case.tile):
                verdict = _verdict(case, device)
        except Exception as error:
            verdict = described(error)
        wrong += verdict != "right"
        print(f"{case}: {verdict}", flush=True)
    print(f"{count - wrong} of {count} searches are right")
    return 1 if wrong else 0


def _verdict(case: Case, device: torch.device) -> str:
    from flashmatch.kernels.contract import reference

    shape = case.shape
    if case.ties:
        queries, prototypes = (torch.ones(n, shape.C, device=device) for n in (shape.Q, shape.M))
    else:
        queries, prototypes = make(shape, device)
    if case.heavy:
        queries[:, 7], prototypes[:, 7] = 100 * queries[:, 7], 100 * prototypes[:, 7]
    mask = _mask(case, device)
    search = _bank if case.body == "bank" else _topk
    scores, indices = (x.cpu() for x in search(case, queries, prototypes, mask))
    on_host = None if mask is None else mask.cpu()
    expected = reference.topk(queries.cpu(), prototypes.cpu(), shape.k, shape.metric, on_host)
    ulps = (scores.view(torch.int32).long() - expected[0].view(torch.int32).long()).abs().max()
    if torch.equal(indices, expected[1]) and ulps <= 1:  # fp64's last bit may round to either
        return "right"
    return f"wrong: {int((indices != expected[1]).sum())} indices differ, scores by {ulps} ulp"


def _mask(case: Case, device: torch.device) -> Tensor | None:
    if case.mask == 0:
        return None
    size = (case.shape.Q, case.shape.M)[2 - case.mask :]
    return (torch.rand(size, generator=torch.Generator().manual_seed(3)) < 0.5).to(device)


def _topk(
    case: Case, queries: Tensor, prototypes: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    from flashmatch.kernels import WORKSPACE_BYTES
    from flashmatch.kernels.contract.request import Request
    from flashmatch.kernels.triton_backend import vector_search

    shape = case.shape
    chunk_rows = None if shape.M < 100 else shape.M * 2 // 3  # a second chunk, and ragged
    request = Request(shape.k, shape.metric, mask, chunk_rows, exclude=True)
    plan = vector_search.plan_of_vectors(queries, [prototypes], request, WORKSPACE_BYTES)
    plan = _with_room_for(case, plan)
    best = vector_search.search_with_flags(queries, [prototypes], request, plan)
    return best.scores, best.indices


def _bank(
    case: Case, queries: Tensor, prototypes: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """As a bank would, whose own thresholds would send searches this small elsewhere."""
    from flashmatch.kernels import WORKSPACE_BYTES
    from flashmatch.kernels.codes.frame import fitted_frame
    from flashmatch.kernels.codes.pages import Codes
    from flashmatch.kernels.contract.chunks import Rows
    from flashmatch.kernels.contract.request import Request
    from flashmatch.kernels.storage.clean_rows import screen_norms
    from flashmatch.kernels.triton_backend import bank_search

    frame = fitted_frame(prototypes.float(), case.shape.metric)
    codes = Codes(frame, bank_search.LAYOUT, *prototypes.shape)
    codes.write(0, prototypes, screen_norms(prototypes))
    request = Request(case.shape.k, case.shape.metric, mask, exclude=True)
    plan = bank_search.plan_of_codes(queries, codes, request, WORKSPACE_BYTES)
    plan, rows = _with_room_for(case, plan), Rows([prototypes])
    found = bank_search.search_codes(queries, codes, rows, request, plan)
    return found.scores, found.rows


def _with_room_for(case: Case, plan: "SearchPlan") -> "SearchPlan":
    """Where all rows are equal, for an entry of each query and column."""
    return replace(plan, strips=1, capacity=1) if case.ties else plan
