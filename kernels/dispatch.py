"""Which backend searches, and why not the other: the only place that chooses.

The Triton backend is imported when a search on a GPU first asks for it, and entered by its
selfcheck alone. What it does not take, and for what reason, is logged at level DEBUG by the logger
"flashmatch".
"""

import functools
import logging
import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .codes.layout import Layout
from .codes.pages import Codes
from .concurrency.fit_thread import in_fit_thread
from .concurrency.workers import workers_for
from .contract.chunks import Rows
from .contract.finite import require_finite
from .contract.matches import Found
from .contract.request import Request
from .products import choice, halves
from .proofs import int8
from .storage.operands import Operands, keeps
from .storage.prepared import Prepared
from .torch_backend import float_search, int8_scan, int8_search
from .torch_backend.cpu import coded, shares
from .torch_backend.cpu.one_pass import Answer
from .torch_backend.cpu.plan import (
    SHARED_WORK,
    WORKER_BYTES,
    beats_codes,
    choose_one_pass,
    rounding_pays,
    work_of,
)
from .torch_backend.plan import Plan, choose_plan, codes_pay

_KERNELS = __name__.rpartition(".")[0]
_log = logging.getLogger("flashmatch")


def search_vectors(
    queries: Tensor, prototypes: list[Tensor], request: Request
) -> tuple[Tensor, Tensor]:
    """Scores (Q, k) fp32 and indices (Q, k) int64 of prototypes (M_i, C) as given."""
    tensors, rows = [queries, *prototypes], Rows(prototypes)
    workspace = workspace_bytes() - request.held
    return in_fit_thread(tensors, _search_vectors, queries, rows, request, workspace)


def search_bank(bank: Prepared, queries: Tensor, request: Request) -> tuple[Tensor, Tensor]:
    """Scores and rows (Q, k) of a bank, on the queries' device; the mask is by position.

    The request excludes: what is refused is for the bank to say.
    """
    found = found_in_bank(bank, queries, request)
    bank.counts.add(queries.shape[0], found)
    return found.scores.to(queries.device), found.rows.to(queries.device)


def found_in_bank(bank: Prepared, queries: Tensor, request: Request) -> Found:
    """As ``search_bank``, on the bank's device and not counted: with what it took."""
    device = bank.collection.device
    if queries.device != device:
        queries = queries.to(device)
    if request.mask is not None:
        request = request.masked(request.mask.to(device))
    tensors = [queries, *bank.collection.rows.chunks]
    return in_fit_thread(tensors, _search_rows, bank, queries, request)


def layout_for(device: torch.device, channels: int, screen: str) -> Layout | None:
    """How codes should lie for searches on this device; None for no codes.

    Raises ValueError where int8 is demanded but cannot be had exactly.
    """
    if screen == "float":
        return None
    fits = channels <= int8.MAX_CHANNELS
    if fits and not why_no_triton(device):
        from .triton_backend.selfcheck.entrance import LAYOUT

        return LAYOUT
    if screen == "auto" and not (fits and choice.are_codes_fast(device.type, channels)):
        return None
    if not (fits and choice.product_of_codes(device.type)):
        raise ValueError(
            f"screen must not be 'int8' where integer products are not exact, nor beyond "
            f"{int8.MAX_CHANNELS} channels; got {channels} channels on {device}"
        )
    if device.type == "cpu":
        _warn_if_slow()
    return int8_scan.LAYOUT if device.type == "cpu" else int8_scan.LAYOUT_CUDA


@functools.cache
def _warn_if_slow() -> None:
    """Once, where codes were demanded and a screen in float would be faster."""
    reason = choice.why_codes_are_slow("cpu")
    if reason:
        warnings.warn(
            f"screen='int8' is slower here than 'float', which 'auto' takes, since {reason}",
            stacklevel=2,
        )


def why_no_triton(device: torch.device) -> str:
    """Why the Triton backend takes no search on this device; nothing where it takes some."""
    if device.type != "cuda":
        return "it is no GPU"
    try:
        from .triton_backend.selfcheck import entrance
    except Exception as error:  # what is broken in Triton is no reason not to search
        return f"Triton cannot be imported ({type(error).__name__}: {error})"
    return entrance.why_not(device)


def _search_vectors(
    queries: Tensor, rows: Rows, request: Request, workspace: int
) -> tuple[Tensor, Tensor]:
    found = _by_triton(
        queries.device, lambda door: door.search_vectors(queries, rows, request, workspace)
    )
    if found is not None:
        return found.scores, found.rows
    return _search_by_torch(queries, rows, request, workspace)


def _by_triton(
    device: torch.device, ask: Callable[[Any], tuple[Found | None, str]]
) -> Found | None:
    """What its entrance answers; None where the Triton backend does not take the search."""
    why_not = why_no_triton(device)
    if not why_not:
        from .triton_backend.selfcheck import entrance

        found, why_not = ask(entrance)
        if found is not None:
            return found
    if device.type == "cuda":
        _log.debug("the torch backend searches on %s: %s", device, why_not)
    return None


def _search_by_torch(
    queries: Tensor, rows: Rows, request: Request, workspace: int
) -> tuple[Tensor, Tensor]:
    workers = _workers(queries, rows, workspace) if request.chunk_rows is None else 1
    plan = _plan_that_codes(queries, rows, request, workspace) if workers == 1 else None
    if plan is not None:
        return int8_search.search_while_coding(queries, rows.chunks, request, plan)
    answer = _search_in_one_pass(queries, rows, request, workspace, workers, None)
    if answer is not None:
        return answer.scores, answer.indices
    return _search_in_general(queries, rows, request, workspace)


def _plan_that_codes(queries: Tensor, rows: Rows, request: Request, workspace: int) -> Plan | None:
    """The plan of a search that codes the prototypes in passing, if that pays."""
    if not choice.codes_in_passing(queries.device.type):
        return None
    shape = queries.shape[0], len(rows), rows.channels, request.k
    plan = choose_plan(*shape, workspace, request.chunk_rows)
    if not plan.coded:
        return None
    in_one_pass = _may_go_in_one_pass(queries, rows, request)
    in_halves = in_one_pass and (_are_halves(queries, rows) or _are_rounded(queries, rows))
    return None if in_halves else plan


def _search_in_general(
    queries: Tensor, rows: Rows, request: Request, workspace: int
) -> tuple[Tensor, Tensor]:
    shape = queries.shape[0], len(rows), rows.channels, request.k
    plan = choose_plan(*shape, workspace, request.chunk_rows)
    return float_search.search_vectors(queries, rows.chunks, request, plan)


def _search_rows(bank: Prepared, queries: Tensor, request: Request) -> Found:
    workspace = workspace_bytes() - request.held
    if not request.has_pairs or bank.collection.matchable() is None:
        return _search_block(bank, queries, 0, request, workspace)
    # A mask by row is another (Q, M) bytes: made for as many queries as its share has room for.
    share = workspace // 8
    step = max(1, share // len(bank.collection.rows))
    found = []
    for start in range(0, len(queries), step):
        part = slice(start, start + step)
        own = request.of(part)
        found.append(_search_block(bank, queries[part], start, own, workspace - share))
    scores, rows, *counts = zip(*found, strict=True)
    return Found(torch.cat(scores), torch.cat(rows), *map(sum, counts))


def _search_block(
    bank: Prepared, queries: Tensor, first: int, request: Request, workspace: int
) -> Found:
    """Of queries that are numbered from ``first``."""
    collection, codes = bank.collection, bank.coder.codes
    rows = collection.rows
    by_row = request
    if request.mask is not None or collection.matchable() is not None:
        by_row = request.masked(collection.mask_by_row(request.mask))
    own = request if request.mask is None else by_row  # without one, codes know what never matches
    refuses = bank.nonfinite == "raise"
    shape = queries.shape[0], len(rows), rows.channels
    by_codes = codes is not None and bool(codes.held.product) and codes_pay(*shape, request.k)
    found = _bank_by_triton(queries, codes, rows, own, by_row, by_codes, workspace)
    if found is not None:
        if refuses and found.nonfinite:  # waits for the device, when all is launched
            require_finite("queries", [queries], first)
        return found
    on_cpu = queries.is_cpu and bool(why_no_triton(queries.device))
    workers = _workers(queries, rows, workspace) if on_cpu else 1
    if codes is not None and by_codes and on_cpu:
        are_cast, are_packed = rows.dtype != torch.float32, codes.held.product == choice.FBGEMM
        about = are_cast, are_packed, _are_rounded(queries, rows)
        by_codes = not (_are_halves(queries, rows) or beats_codes(*shape, request.k, *about))
    if on_cpu and not by_codes:
        answer = _search_in_one_pass(queries, rows, by_row, workspace, workers, bank)
        if answer is not None:
            return _found(answer, rows)
    if refuses:
        require_finite("queries", [queries], first)
    if codes is None or not by_codes:
        search = _search_in_general if on_cpu else _search_by_torch
        found = search(queries, rows, by_row, workspace)
        return Found(*found, 0, 0, rows.nbytes)
    return coded.search_shared(queries, codes, rows, own, workspace, workers)


def _bank_by_triton(
    queries: Tensor, codes: Codes | None, rows: Rows, request: Request, by_row: Request,
    by_codes: bool, workspace: int,
) -> Found | None:  # fmt: skip
    """By its codes, or where it has none, or they would not pay elsewhere, by its vectors."""
    found, device = None, queries.device
    if codes is not None:
        of_codes = queries, codes, rows, request, by_row, workspace
        found = _by_triton(device, lambda door: door.search_codes(*of_codes))
    if found is None and not by_codes:
        found = _by_triton(
            device, lambda door: door.search_vectors(queries, rows, by_row, workspace)
        )
    return found


def _workers(queries: Tensor, rows: Rows, workspace: int) -> int:
    """How many threads should take blocks of their own: 1 where some of it is not on a CPU."""
    if not (queries.is_cpu and rows.are_on_cpu):
        return 1
    work = work_of(queries.shape[0], len(rows), rows.channels)
    return workers_for(workspace // WORKER_BYTES) if work >= SHARED_WORK else 1


def _may_go_in_one_pass(queries: Tensor, rows: Rows, request: Request) -> bool:
    """Whether everything is on a CPU, and no chunks are asked for."""
    return queries.is_cpu and rows.are_on_cpu and request.chunk_rows is None


def _are_halves(queries: Tensor, rows: Rows) -> bool:
    """Whether products take queries and rows as they are, in bf16."""
    return rows.dtype == queries.dtype == torch.bfloat16 and halves.serve()


def _are_rounded(queries: Tensor, rows: Rows) -> bool:
    """Whether products take queries and rows rounded to bf16."""
    return rounding_pays(queries.shape[0], rows.channels) and halves.serve()


def _found(answer: Answer, rows: Rows) -> Found:
    repaired = 0 if answer.unproven is None else int(answer.unproven.sum())
    return Found(answer.scores, answer.indices, repaired, answer.rescored, rows.nbytes)


def _search_in_one_pass(
    queries: Tensor, rows: Rows, request: Request, workspace: int, workers: int,
    bank: Prepared | None,
) -> Answer | None:  # fmt: skip
    """None where it has to be searched in general."""
    if not _may_go_in_one_pass(queries, rows, request):
        return None
    shape = queries.shape[0], len(rows), rows.channels, request.k
    are_kept = bank is not None and keeps(rows)  # in fp32, too
    are_halves = not are_kept and _are_halves(queries, rows)
    are_rounded = not are_halves and _are_rounded(queries, rows)
    plan = choose_one_pass(*shape, workspace, workers, are_halves, are_rounded, are_kept)
    if plan is None:
        return None
    operands = Operands(rows, request.metric) if bank is None else bank.operands
    return shares.search(queries, operands, request, plan, workspace)


def workspace_bytes() -> int:
    return sys.modules[_KERNELS].WORKSPACE_BYTES  # at call time: it can be set
