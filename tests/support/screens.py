"""The screens that banks may have on this machine, and ways to have them used for few rows."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from flashmatch.kernels import dispatch
from flashmatch.kernels.codes import held
from flashmatch.kernels.concurrency.workers import in_workers
from flashmatch.kernels.products import choice, halves, packed
from flashmatch.kernels.storage import operands
from flashmatch.kernels.torch_backend import plan
from flashmatch.kernels.torch_backend.cpu import coded, shares
from flashmatch.kernels.torch_backend.cpu import plan as cpu_plan

INT8 = bool(choice.product_of_codes("cpu"))
"""Whether an int8 screen may be asked for here: fast or not."""
SCREENS = ["float", "int8"] if INT8 else ["float"]
CODED = "int8" if INT8 else "float"
"""The screen of codes where there can be any."""
needs_int8 = pytest.mark.skipif(not INT8, reason="integer products are not exact here")
needs_fbgemm = pytest.mark.skipif(
    not packed.is_packed_exact(), reason="this torch has no fbgemm, or it is not exact"
)
needs_inductor = pytest.mark.skipif(
    os.environ.get("ATEN_CPU_CAPABILITY") == "default",
    reason="torch's inductor writes code there that does not compile (2.15)",
)

SMALL = {"CODES_ELEMENTS": 0, "CODES_ROWS": 1, "WHOLE_ELEMENTS": 0}
"""What a plan has to hold for small banks to be screened, and through their codes."""


WHOLE = {"WHOLE_PRODUCTS": 1 << 60}
SCREENED = {"WHOLE_PRODUCTS": 0}
SHARED = {
    "WHOLE_PRODUCTS": 0,
    "SPAN_ROWS": 120,
    "_SPAN_PER_SIZE": 1,
    "LEAST_QUERIES": 3,
    "_MOST_QUERIES": 4,
    "_TASK_QUERIES": 7,
    "BLOCK_SCORES": 1,
}
ROUNDED = {**SHARED, "_LEAST_ROUNDED": (1, 1), "_SPAN_PER_SIZE": 4}
ONE_PASS = {
    "whole": WHOLE,
    "screened": SCREENED,
    "shared": SHARED,
    "halves": SCREENED,
    "rounded": ROUNDED,
}
"""What the plan of one pass has to hold for each way it goes; shared: tiny spans and blocks."""


def search_in_general(patch: pytest.MonkeyPatch) -> None:
    """Nothing is searched in one pass, nor by threads with blocks of their own."""
    patch.setattr(dispatch, "choose_one_pass", lambda *shape: None)
    patch.setattr(dispatch, "beats_codes", lambda *about: False)
    patch.setattr(halves, "are_fast", lambda *setting: False)
    patch.setattr(dispatch, "workers_for", lambda most: 1)


def search_in_one_pass(patch: pytest.MonkeyPatch, way: str) -> None:
    """Everything that can be is searched in one pass, by this way of ONE_PASS, codes or not.

    Where it is shared, among three workers, whatever threads torch has and others keep busy. In
    "halves", bf16 is multiplied as it is, fast or not; "rounded" to it is whatever is no bf16.
    """
    patch.setattr(halves, "are_fast", lambda *setting: way in ("halves", "rounded"))
    for name, value in ONE_PASS[way].items():
        patch.setattr(cpu_plan, name, value)
    patch.setattr(dispatch, "beats_codes", lambda *about: True)
    patch.setattr(dispatch, "SHARED_WORK", 0)
    patch.setattr(dispatch, "workers_for", lambda most: 3 if way == "shared" else 1)
    for module in (shares, operands):
        patch.setattr(module, "in_workers", in_three_threads)


def in_three_threads(tasks: Sequence[Callable[[], Any]], workers: int) -> list[Any]:
    """As in_workers, where torch has three threads at least."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(before, 3))
    try:
        return in_workers(tasks, workers)
    finally:
        torch.set_num_threads(before)


def screen_small(patch: pytest.MonkeyPatch) -> None:
    """Every search is screened, whatever there is to search, a bank's through its codes."""
    search_in_general(patch)
    for name, value in SMALL.items():
        patch.setattr(plan, name, value)


def multiply_by_fbgemm(patch: pytest.MonkeyPatch) -> None:
    """Codes are searched as on a CPU without VNNI, whatever this one has."""
    patch.setattr(choice, "product_of_codes", lambda device_type: choice.FBGEMM)
    patch.setattr(choice, "why_codes_are_slow", lambda device_type: "")
    patch.setattr(packed, "LEAST_CHANNELS", 1)


def screen_in_pieces(patch: pytest.MonkeyPatch, rows: int = 2048, queries: int = 16) -> None:
    """Every search of a bank with codes screens them, ``queries`` by ``rows`` at a time."""
    original = dispatch.choose_plan

    def choose_plan(*arguments: object) -> plan.Plan:
        chosen = original(*arguments)
        return dataclasses.replace(
            chosen,
            screened=True,
            chunk_rows=min(chosen.chunk_rows, rows),
            coded_rows=rows,
            coded_queries=queries,
        )

    search_in_general(patch)
    for module in (dispatch, coded):
        patch.setattr(module, "choose_plan", choose_plan)
    patch.setattr(dispatch, "codes_pay", lambda *shape: True)
    patch.setattr(held, "PACK_ROWS", rows)
