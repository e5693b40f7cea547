"""What checks share: plans of a variant, small numbers, and how a difference is told."""

from dataclasses import replace

import torch
from torch import Tensor

from ....contract.metrics import COSINE_EPS
from ....contract.request import Request
from ...bank_search import LAYOUT
from ...chips import chip
from ...plan import Prototypes, SearchPlan, choose_plan, pad
from ...tiles import GROUP, TILE_P
from .variants import TF32, WHOLE, WIDTH, Variant

WORKSPACE = 2**26
K = 5
LOWEST = -torch.inf
"""The bias of what may not match, and of padding."""
QUERIES = 4
"""Of the checks that do not need a second tile of them."""


def channels(variant: Variant) -> int:
    """Padding is in, where there may be some."""
    return WIDTH if variant.screen == TF32 else WIDTH - 48


def plan_of(
    variant: Variant, queries: int, rows: int, device: torch.device, capacity: int = 2
) -> SearchPlan:
    """As a search would have it, but for its tile; so few entries have room that some are lost."""
    given = Prototypes(
        rows, channels(variant), WIDTH, LAYOUT.span, readable=variant.screen == TF32,
        half=variant.half,
    )  # fmt: skip
    plan = choose_plan(
        queries, given, K, chip=chip(device), workspace=WORKSPACE, pairs=variant.masked
    )
    return replace(
        plan, whole=variant.screen == WHOLE, few=variant.few, tf32=variant.screen == TF32,
        tile=variant.tile,
        query_rows=pad(queries, variant.tile.block_q), slots=variant.slots,
        strips=1, capacity=capacity, programs=2,
    )  # fmt: skip


def request_of(variant: Variant, mask: Tensor | None = None) -> Request:
    """A search that excludes, by a mask on its device."""
    return Request(K, variant.metric, mask, exclude=True)


def integers(shape: tuple[int, ...], most: int, generator: torch.Generator) -> Tensor:
    """From -most to most, fp64."""
    return torch.randint(-most, most + 1, shape, generator=generator).double()


def powers(shape: tuple[int, ...], most: int, generator: torch.Generator) -> Tensor:
    """2^-most to 2^most, fp64."""
    return torch.ldexp(torch.ones(shape, dtype=torch.float64), integers(shape, most, generator))


def some(shape: tuple[int, ...], share: float, generator: torch.Generator) -> Tensor:
    """Bools, a share of which is true."""
    return torch.rand(shape, generator=generator) < share


def exact_scores(queries: Tensor, rows: Tensor, metric: str) -> Tensor:
    """(Q, M) fp64, by the contract's definitions."""
    if metric == "l2":
        return -(queries[:, None] - rows).square().sum(2)
    products = queries @ rows.T
    if metric == "cosine":
        q, p = (x.square().sum(1).sqrt().clamp(min=COSINE_EPS) for x in (queries, rows))
        return products / (q[:, None] * p)
    return products


def mixed_pages(pages: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(pages * span,) by position, in any order: the row in its page, and the row."""
    row_in_page = torch.rand(pages, LAYOUT.span, generator=generator).argsort(1)
    row = row_in_page + torch.arange(pages)[:, None] * LAYOUT.span
    return row_in_page.flatten(), row.flatten()


def group_maxima(values: Tensor) -> Tensor:
    """(Q, M) -> (Q, M / GROUP): group i of a tile is every so many of its prototypes."""
    return values.view(len(values), -1, GROUP, TILE_P // GROUP).amax(2).flatten(1)


def padded(rows: Tensor, count: int, width: int, value: float = 0.0) -> Tensor:
    """(n, C) -> (count, width)."""
    more = (0, width - rows.shape[1], 0, count - len(rows))
    return torch.nn.functional.pad(rows, more, value=value)


def lengthened(values: Tensor, count: int, value: float) -> Tensor:
    """(n,) -> (count,)."""
    return padded(values[None], 1, count, value)[0]


def difference(what: str, found: Tensor, expected: Tensor) -> list[str]:
    """What is not the same in either, to the bit but for the sign of zero, or nothing."""
    found, expected = found.cpu(), expected.cpu()
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return [f"{what}: {found.dtype} {tuple(found.shape)} instead of {tuple(expected.shape)}"]
    return violation(what, found, found == expected, expected)


def violation(what: str, found: Tensor, holds: Tensor, limit: Tensor) -> list[str]:
    """Where a number does not hold to its limit: how often, and the first."""
    wrong = (~holds).nonzero()
    if len(wrong) == 0:
        return []
    at = tuple(wrong[0].tolist())
    first = f"first at {at}: {found[at].item()!r} against {limit[at].item()!r}"
    return [f"{what}: {len(wrong)} of {holds.numel()} are wrong, {first}"]
