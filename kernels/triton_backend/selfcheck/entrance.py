"""The way into the Triton backend: by variants that are believed, and never out by an exception.

Each search gives an answer, or the reason why the torch backend has to take it.
"""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from ...codes.pages import Codes
from ...contract.chunks import Rows
from ...contract.matches import Found
from ...contract.request import Request
from .. import bank_search, chips, vector_search
from ..device.flags import Flag
from ..query_block import Best
from . import verdicts
from .checks import variants

Answer = TypeVar("Answer")
LAYOUT = bank_search.LAYOUT
"""Of the codes that are searched."""


def why_not(device: torch.device) -> str:
    """Why no search is taken on this device; nothing where some are."""
    reason = chips.why_not(device)
    if reason:
        return reason
    failed = verdicts.of_device(device).failed
    return failed[0] if failed else ""


def search_vectors(
    queries: Tensor, rows: Rows, request: Request, workspace: int
) -> tuple[Found | None, str]:
    """What is found in prototypes as given.

    Raises ValueError for what is not finite, unless the request excludes; then ``nonfinite`` tells
    of the queries.
    """
    found, reason = _caught(
        queries.device, lambda: _searched_vectors(queries, rows, request, workspace)
    )
    if found is None:
        return None, reason
    best, flags = found
    vector_search.refuse_flagged(flags, queries, rows.chunks)
    repaired, nonfinite = (
        best.flags.select(0, int(flag)) for flag in (Flag.REPAIRED, Flag.NONFINITE_QUERIES)
    )
    return Found(best.scores, best.indices, repaired, 0, rows.nbytes, nonfinite), ""


def search_codes(
    queries: Tensor, codes: Codes, rows: Rows, request: Request, by_row: Request, workspace: int
) -> tuple[Found | None, str]:
    """What is found in a bank of codes; in a small one without them, by its mask of rows.

    The mask of ``request`` is None where codes know what never matches. Both requests exclude.
    """
    if vector_search.are_few(queries, rows, request):
        return search_vectors(queries, rows, by_row, workspace)
    return _caught(
        queries.device, lambda: _searched_codes(queries, codes, rows, request, workspace)
    )


def _searched_vectors(
    queries: Tensor, rows: Rows, request: Request, workspace: int
) -> tuple[tuple[Best, list[int]] | None, str]:
    reason = vector_search.why_not_vectors(queries, request)
    if reason:
        return None, reason
    plan = vector_search.plan_of_vectors(queries, rows.chunks, request, workspace)
    used = variants.of_vectors(queries, rows.chunks, request, plan)
    reason = verdicts.why_unproven(queries.device, used)
    if reason:
        return None, reason
    return vector_search.search_vectors(queries, rows.chunks, request, plan), ""


def _searched_codes(
    queries: Tensor, codes: Codes, rows: Rows, request: Request, workspace: int
) -> tuple[Found | None, str]:
    reason = bank_search.why_not_codes(queries, codes, rows, request)
    if reason:
        return None, reason
    plan = bank_search.plan_of_codes(queries, codes, request, workspace)
    used = variants.of_codes(queries, rows.chunks, request, plan)
    reason = verdicts.why_unproven(queries.device, used)
    if reason:
        return None, reason
    return bank_search.search_codes(queries, codes, rows, request, plan), ""


def _caught(
    device: torch.device, answer: Callable[[], tuple[Answer | None, str]]
) -> tuple[Answer | None, str]:
    """No exception is an answer, but where a stream is captured: nothing else can be tried there.

    Too little memory is nobody's fault: the next search may have more.
    """
    try:
        return answer()
    except torch.OutOfMemoryError:
        return None, "it ran out of memory"
    except Exception as error:
        if verdicts.is_captured(device):
            raise
        wrong = f"a search raised {verdicts.described(error)}"
    verdicts.withdraw(device, [wrong])  # here no frame of the search holds memory any more
    return None, wrong
