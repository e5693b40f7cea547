"""Which backend searches, and why not the other: the only place that chooses.

The Triton backend is imported when a search on a GPU first asks for it, and entered by its
selfcheck alone. What it does not take, and for what reason, is logged at level DEBUG by the logger
"flashmatch".
"""

import functools
import logging
import warnings
from dataclasses import replace

import torch
from torch import Tensor

from .codes.layout import Layout
from .concurrency.fit_thread import in_fit_thread
from .contract.finite import norms, refuse_nonfinite
from .contract.matches import Found
from .contract.request import Request
from .products import choice
from .proofs import int8
from .storage.prepared import Prepared
from .torch_backend import float_search, int8_scan, int8_search
from .torch_backend.plan import choose_plan

_log = logging.getLogger("flashmatch")


def search_vectors(
    queries: Tensor, prototypes: list[Tensor], request: Request
) -> tuple[Tensor, Tensor]:
    """Scores (Q, k) fp32 and indices (Q, k) int64 of prototypes (M_i, C) as given."""
    tensors = [queries, *prototypes]
    return in_fit_thread(tensors, _search_vectors, queries, prototypes, request, _workspace())


def search_bank(bank: Prepared, queries: Tensor, request: Request) -> tuple[Tensor, Tensor]:
    """Scores and rows (Q, k) of a bank, on the queries' device; the mask is by position."""
    asked, device = queries.device, bank.collection.device
    queries, mask = queries.to(device), request.mask
    request = replace(request, mask=mask if mask is None else mask.to(device), exclude=True)
    tensors = [queries, *bank.collection.rows.chunks]
    found = in_fit_thread(tensors, _search_rows, bank, queries, request)
    bank.counts.add(len(queries), found)
    return found.scores.to(asked), found.rows.to(asked)


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
    queries: Tensor, prototypes: list[Tensor], request: Request, workspace: int
) -> tuple[Tensor, Tensor]:
    why_not = why_no_triton(queries.device)
    if not why_not:
        from .triton_backend.selfcheck import entrance

        found, why_not = entrance.search_vectors(queries, prototypes, request, workspace)
        if found is not None:
            return found
    _note(queries.device, why_not)
    shape = len(queries), sum(map(len, prototypes)), queries.shape[1], request.k
    chosen = choose_plan(*shape, workspace, request.chunk_rows)
    if chosen.coded and choice.codes_in_passing(queries.device.type):
        return int8_search.search_while_coding(queries, prototypes, request, chosen)
    return float_search.search_vectors(queries, prototypes, request, chosen)


def _search_rows(bank: Prepared, queries: Tensor, request: Request) -> Found:
    if bank.nonfinite == "raise":
        refuse_nonfinite("queries", ~norms(queries).isfinite())
    workspace = _workspace()
    if not request.has_pairs or bank.collection.matchable() is None:
        return _search_block(bank, queries, request, workspace)
    # A mask by row is another (Q, M) bytes: made for as many queries as its share has room for.
    share = workspace // 8
    step = max(1, share // len(bank.collection.rows))
    found = []
    for start in range(0, len(queries), step):
        part = slice(start, start + step)
        found.append(_search_block(bank, queries[part], request.of(part), workspace - share))
    scores, rows, *counts = zip(*found, strict=True)
    return Found(torch.cat(scores), torch.cat(rows), *map(sum, counts))


def _search_block(bank: Prepared, queries: Tensor, request: Request, workspace: int) -> Found:
    rows, codes = bank.collection.rows, bank.coder.codes
    chosen = choose_plan(len(queries), len(rows), rows.channels, request.k, workspace, None)
    if codes is None or not (chosen.codes_pay and codes.held.product):
        request = request.masked(bank.collection.mask_by_row(request.mask))
        found = _search_vectors(queries, rows.chunks, request, workspace)
        return Found(*found, 0, 0, sum(chunk.nbytes for chunk in rows.chunks))
    if request.mask is not None:  # without one, codes know what never matches
        request = request.masked(bank.collection.mask_by_row(request.mask))
    why_not = why_no_triton(queries.device)
    if not why_not:
        from .triton_backend.selfcheck import entrance

        found, why_not = entrance.search_codes(queries, codes, rows, request, workspace)
        if found is not None:
            return found
    _note(queries.device, why_not)
    return int8_search.search_codes(queries, codes, rows, request, chosen)


def _note(device: torch.device, why_not: str) -> None:
    if device.type == "cuda":
        _log.debug("the torch backend searches on %s: %s", device, why_not)


def _workspace() -> int:
    from . import WORKSPACE_BYTES  # at call time: it can be set

    return WORKSPACE_BYTES
