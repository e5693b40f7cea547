"""Problems searched by the Triton backend itself, which dispatch would not choose for them."""

from coded import coded
from problems import Problem
from torch import Tensor

from flashmatch.kernels.codes.pages import Codes
from flashmatch.kernels.contract.chunks import Rows
from flashmatch.kernels.contract.matches import Found
from flashmatch.kernels.contract.request import Request
from flashmatch.kernels.triton_backend import float_search, int8_search
from flashmatch.kernels.triton_backend.float_search import Chunk, FloatBlock
from flashmatch.kernels.triton_backend.int8_search import Int8Block, Run
from flashmatch.kernels.triton_backend.plan import TritonPlan
from flashmatch.kernels.triton_backend.query_block import Best, RunningTopK, whole_mask
from flashmatch.kernels.triton_backend.rounds import CodesPlan

WORKSPACE = 2**28


def on(problem: Problem, device: str) -> Problem:
    mask = None if problem.mask is None else problem.mask.to(device)
    prototypes = [p.to(device) for p in problem.prototypes]
    return problem.replace(queries=problem.queries.to(device), prototypes=prototypes, mask=mask)


def request_of(problem: Problem) -> Request:
    excludes = problem.nonfinite == "exclude"
    return Request(problem.k, problem.metric, problem.mask, problem.chunk_rows, excludes)


def vectors_plan(problem: Problem, workspace: int = WORKSPACE) -> TritonPlan:
    request = request_of(problem)
    return float_search.plan_of_vectors(problem.queries, problem.prototypes, request, workspace)


def search_vectors(problem: Problem, workspace: int = WORKSPACE) -> tuple[Tensor, Tensor]:
    plan, request = vectors_plan(problem, workspace), request_of(problem)
    *found, flags = float_search.search_vectors(problem.queries, problem.prototypes, request, plan)
    float_search.refuse_flagged(flags, problem.queries, problem.prototypes)
    return found[0], found[1]


def search_with_flags(
    problem: Problem, workspace: int = WORKSPACE
) -> tuple[Tensor, Tensor, Tensor]:
    request = request_of(problem)
    plan = vectors_plan(problem, workspace)
    return float_search.search_with_flags(problem.queries, problem.prototypes, request, plan)


def codes_plan(problem: Problem, codes: Codes, workspace: int = WORKSPACE) -> CodesPlan:
    return int8_search.plan_of_codes(problem.queries, codes, request_of(problem), workspace)


def search_codes(problem: Problem, codes: Codes | None = None, workspace: int = WORKSPACE) -> Found:
    codes = codes or coded(problem.prototypes, problem.metric, int8_search.LAYOUT)
    rows, request = Rows(problem.prototypes), request_of(problem)
    plan = codes_plan(problem, codes, workspace)
    return int8_search.search_codes(problem.queries, codes, rows, request, plan)


def prepared_vectors(problem: Problem, plan: TritonPlan) -> tuple[FloatBlock, Chunk]:
    """All queries as one block, and the only chunk of prototypes."""
    request, (p,) = request_of(problem), problem.prototypes
    best = RunningTopK.empty(problem.queries, problem.k)
    mask = whole_mask(problem.queries, len(p), request)
    block = float_search.prepare_vectors(problem.queries, request, plan, best)
    return block, float_search.prepare_chunk(p, 0, mask, request, plan, best.flags)


def prepared_codes(problem: Problem, codes: Codes, plan: CodesPlan) -> tuple[Int8Block, Run]:
    """All queries as one block, and all pages as one run."""
    request, (p,) = request_of(problem), problem.prototypes
    best = Best.empty(problem.queries, problem.k)
    mask = whole_mask(problem.queries, len(p), request)
    block = int8_search.code_queries(problem.queries, codes.frame, request, plan, best)
    return block, int8_search.run_of(codes, slice(0, codes.pages), p, mask, plan)
