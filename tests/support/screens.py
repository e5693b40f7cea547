"""Has banks screen in int8 what they would otherwise score as a whole, and in several pieces."""

import dataclasses

import pytest

from flashmatch.kernels import _plan, _searches


def screen_in_pieces(patch: pytest.MonkeyPatch, rows: int = 2048, queries: int = 16) -> None:
    """Every search of a bank with codes screens them, ``queries`` by ``rows`` at a time."""
    original = _searches.plan

    def plan(*arguments: object) -> _plan.Plan:
        chosen = original(*arguments)
        return dataclasses.replace(
            chosen,
            screened=True,
            codes_pay=True,
            chunk_rows=min(chosen.chunk_rows, rows),
            coded_rows=rows,
            coded_queries=queries,
        )

    patch.setattr(_searches, "plan", plan)
