"""What several files ask for: searches by other plans, and where prototypes lie."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
import torch
from torch import Tensor

TILE_P = 128

Planned = Callable[..., AbstractContextManager[None]]


@contextmanager
def _planned(**changes: object) -> Iterator[None]:
    """Every search goes by the plan that is chosen for it, with these changes."""
    from flashmatch.kernels.triton_backend import bank_search, vector_search

    with pytest.MonkeyPatch.context() as patch:
        for module in (bank_search, vector_search):
            patch.setattr(module, "choose_plan", _changing(module.choose_plan, changes))
        yield


def _changing(choose: Callable, changes: dict[str, object]) -> Callable:
    return lambda *args, **kwargs: dataclasses.replace(choose(*args, **kwargs), **changes)


@pytest.fixture(scope="session")  # a function-scoped fixture cannot serve hypothesis
def planned() -> Planned:
    """``with planned(strips=1): ...``"""
    return _planned


@pytest.fixture(scope="module")
def small_pages() -> Iterator[None]:
    """Rows that are coded in passing are ordered by 256, which takes less long to interpret."""
    from flashmatch.kernels.triton_backend import vector_search

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vector_search, "SPAN", 256)
        yield


def _rows_at(run) -> Tensor:
    """(positions of whole tiles,) the row of each; beyond the last where there is none."""
    originals = run.originals
    at = torch.arange(-(-originals.positions // TILE_P) * TILE_P)
    if originals.row_in_page is None:
        return at
    return at // originals.span * originals.span + originals.row_in_page


@pytest.fixture(scope="session")
def rows_at() -> Callable[..., Tensor]:
    """``rows_at(run)``"""
    return _rows_at
