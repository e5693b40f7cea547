"""The screens that banks may have on this machine, and ways to have them used for few rows."""

import dataclasses
import os

import pytest

from flashmatch.kernels import dispatch
from flashmatch.kernels.codes import held
from flashmatch.kernels.products import choice, packed
from flashmatch.kernels.torch_backend import plan

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


def screen_small(patch: pytest.MonkeyPatch) -> None:
    """Every search is screened, whatever there is to search, a bank's through its codes."""
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
            codes_pay=True,
            chunk_rows=min(chosen.chunk_rows, rows),
            coded_rows=rows,
            coded_queries=queries,
        )

    patch.setattr(dispatch, "choose_plan", choose_plan)
    patch.setattr(held, "PACK_ROWS", rows)
