"""Problems searched by the Triton backend itself, which dispatch would not choose for them."""

import dataclasses

from coded import coded
from problems import Problem
from torch import Tensor

from flashmatch.kernels.codes.pages import Codes
from flashmatch.kernels.contract.chunks import Rows
from flashmatch.kernels.contract.matches import Found
from flashmatch.kernels.contract.request import Request
from flashmatch.kernels.triton_backend import bank_search, stages, vector_search
from flashmatch.kernels.triton_backend.plan import SearchPlan
from flashmatch.kernels.triton_backend.query_block import Best, QueryBlock, Run, whole_mask

WORKSPACE = 2**28


def on(problem: Problem, device: str) -> Problem:
    mask = None if problem.mask is None else problem.mask.to(device)
    prototypes = [p.to(device) for p in problem.prototypes]
    return problem.replace(queries=problem.queries.to(device), prototypes=prototypes, mask=mask)


def request_of(problem: Problem) -> Request:
    excludes = problem.nonfinite == "exclude"
    return Request(problem.k, problem.metric, problem.mask, problem.chunk_rows, excludes)


def vectors_plan(problem: Problem, workspace: int = WORKSPACE) -> SearchPlan:
    """Of a search that screens, however small it is."""
    given = problem.queries, problem.prototypes, request_of(problem)
    return dataclasses.replace(vector_search.plan_of_vectors(*given, workspace), whole=False)


def search_vectors(problem: Problem, workspace: int = WORKSPACE) -> tuple[Tensor, Tensor]:
    plan, request = vectors_plan(problem, workspace), request_of(problem)
    best, flags = vector_search.search_vectors(problem.queries, problem.prototypes, request, plan)
    vector_search.refuse_flagged(flags, problem.queries, problem.prototypes)
    return best.scores, best.indices


def search_with_flags(problem: Problem, workspace: int = WORKSPACE) -> Best:
    request = request_of(problem)
    plan = vectors_plan(problem, workspace)
    return vector_search.search_with_flags(problem.queries, problem.prototypes, request, plan)


def search_whole(problem: Problem) -> Best:
    """By one launch, which scores all prototypes."""
    given = problem.queries, problem.prototypes, request_of(problem)
    plan = vector_search.plan_of_vectors(*given, WORKSPACE)
    assert plan.whole
    return vector_search.search_with_flags(*given, plan)


def codes_plan(problem: Problem, codes: Codes, workspace: int = WORKSPACE) -> SearchPlan:
    return bank_search.plan_of_codes(problem.queries, codes, request_of(problem), workspace)


def search_codes(problem: Problem, codes: Codes | None = None, workspace: int = WORKSPACE) -> Found:
    codes = codes or coded(problem.prototypes, problem.metric, bank_search.LAYOUT)
    rows, request = Rows(problem.prototypes), request_of(problem)
    plan = codes_plan(problem, codes, workspace)
    return bank_search.search_codes(problem.queries, codes, rows, request, plan)


def prepared_vectors(problem: Problem, plan: SearchPlan) -> tuple[QueryBlock, Run]:
    """All queries as one block, and the only chunk of prototypes."""
    request, (p,), q = request_of(problem), problem.prototypes, problem.queries
    best, origin = Best.unfilled(q, problem.k), None
    if plan.tf32:
        block = stages.scale_queries(q, request, plan, best, True)
    else:
        origin = vector_search.fitted_origin([p], q.device, problem.metric)
        block = stages.code_queries(q, origin, None, request, plan, best, True)
    mask = whole_mask(q, len(p), request)
    return block, vector_search.run_of_rows(p, 0, mask, origin, request, plan, best.flags)


def prepared_codes(problem: Problem, codes: Codes, plan: SearchPlan) -> tuple[QueryBlock, Run]:
    """All queries as one block, and all pages as one run."""
    request, (p,) = request_of(problem), problem.prototypes
    best = Best.unfilled(problem.queries, problem.k)
    mask = whole_mask(problem.queries, len(p), request)
    block = bank_search.coded_block(problem.queries, codes.frame, request, plan, best)
    return block, bank_search.run_of(codes, slice(0, codes.pages), p, mask, plan)
