"""Small searches of awkward shapes through every kernel, each compared with the oracle.

What a sanitizer watches: small enough to be watched, ragged enough to run over an edge. On a CPU
the kernels run where Triton interprets them (TRITON_INTERPRET=1), with the smallest shapes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from measuring.ledger import described
from measuring.shapes import Shape, make

from . import tiles

METRICS = ("cosine", "dot", "l2")
# Few queries read prototypes as given, many prepare them; the last is more than one tile each way.
SIZES = ((1, 33, 1, 5), (3, 1009, 128, 7), (67, 2099, 129, 31), (130, 4096, 256, 10))
TINY = ((1, 33, 1, 5), (3, 300, 64, 7))
MASKS = (0, 1, 2)  # dimensions


@dataclass(frozen=True)
class Case:
    body: str  # "topk" or "bank"
    shape: Shape
    mask: int
    tile: int = 0  # of those that the chip may run

    def __str__(self) -> str:
        return f"{self.body} {self.shape}, mask of {self.mask} dimensions, tile {self.tile}"


def cases(tiny: bool, tile_count: int = 1) -> Iterator[Case]:
    """Every body, metric, mask and size; dtypes in turn; then the other tiles."""
    dtypes = ("float32", "bfloat16", "float16")
    for i, sizes in enumerate(TINY if tiny else SIZES):
        for j, metric in enumerate(METRICS):
            for mask in (MASKS[j],) if tiny else MASKS:
                shape = Shape(*sizes, metric=metric, dtype=dtypes[(i + j + mask) % 3])
                for body in ("topk", "bank"):
                    yield Case(body, shape, mask)
    # Equal rows cannot be excluded: every group of every query has to be repaired.
    for body in ("topk", "bank"):
        yield Case(body, Shape(17, 300, 64, 3, metric="ties"), 0)
        for tile in range(1, tile_count):
            shape = Shape(17, 300, 128, 3) if tiny else Shape(300, 5003, 192, 10)
            for mask in (1,) if tiny else (0, 1):  # masks of pairs take the plainest in any case
                yield Case(body, shape, mask, tile)


def run(device: torch.device, tiny: bool = False) -> int:
    """1 if an answer was wrong or a search failed; each says so, and the others go on."""
    wrong = count = 0
    for case in cases(tiny, tiles.count(device)):
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

    shape, metric = case.shape, case.shape.metric
    if metric == "ties":
        queries = torch.ones(shape.Q, shape.C, device=device)
        prototypes, metric = torch.ones(shape.M, shape.C, device=device), "cosine"
    else:
        queries, prototypes = make(shape, device)
    mask = _mask(case, device)
    search = _bank if case.body == "bank" else _topk
    scores, indices = (x.cpu() for x in search(queries, prototypes, shape.k, metric, mask))
    on_host = None if mask is None else mask.cpu()
    expected = reference.topk(queries.cpu(), prototypes.cpu(), shape.k, metric, on_host)
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
    queries: Tensor, prototypes: Tensor, k: int, metric: str, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    from flashmatch.kernels import WORKSPACE_BYTES
    from flashmatch.kernels.contract.request import Request
    from flashmatch.kernels.triton_backend import float_search

    chunk_rows = len(prototypes) * 2 // 3  # a second chunk, and ragged
    request = Request(k, metric, mask, chunk_rows, exclude=True)
    plan = float_search.plan_of_vectors(queries, [prototypes], request, WORKSPACE_BYTES)
    return float_search.search_vectors(queries, [prototypes], request, plan)[:2]


def _bank(
    queries: Tensor, prototypes: Tensor, k: int, metric: str, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """As a bank would, whose own thresholds would send searches this small elsewhere."""
    from flashmatch.kernels import WORKSPACE_BYTES
    from flashmatch.kernels.codes.frame import fitted_frame
    from flashmatch.kernels.codes.pages import Codes
    from flashmatch.kernels.contract.chunks import Rows
    from flashmatch.kernels.contract.request import Request
    from flashmatch.kernels.storage.clean_rows import screen_norms
    from flashmatch.kernels.triton_backend import int8_search

    frame = fitted_frame(prototypes.float(), metric)
    codes = Codes(frame, int8_search.LAYOUT, *prototypes.shape)
    codes.write(0, prototypes, screen_norms(prototypes))
    request = Request(k, metric, mask, exclude=True)
    plan = int8_search.plan_of_codes(queries, codes, request, WORKSPACE_BYTES)
    found = int8_search.search_codes(queries, codes, Rows([prototypes]), request, plan)
    return found.scores, found.rows
