"""What the stages of a search hand on: queries and the best found for them, groups, originals."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..contract import order
from ..contract.request import Request
from .device.flags import Flag
from .plan import ScanPlan
from .rounds import PACK, CodesPlan, room_for
from .tiles import GROUP


@dataclass(frozen=True)
class RunningTopK:
    """The k best of each query so far, in no order."""

    keys: Tensor  # (Q, k) int64, of contract/order.py
    thresholds: Tensor  # (Q,) fp32, proven lower bounds of the k-th scores
    flags: Tensor  # int32, of triton_backend/device/flags.py; one tensor for all queries

    @classmethod
    def empty(cls, queries: Tensor, k: int) -> "RunningTopK":
        keys = queries.new_full((len(queries), k), order.EMPTY, dtype=torch.int64)
        thresholds = queries.new_full((len(queries),), -torch.inf, dtype=torch.float32)
        return cls(keys, thresholds, queries.new_zeros(len(Flag), dtype=torch.int32))

    def of(self, queries: slice) -> "RunningTopK":
        return RunningTopK(self.keys[queries], self.thresholds[queries], self.flags)

    def ranked(self, step: int) -> tuple[Tensor, Tensor]:
        """Scores (Q, k) fp32 and indices (Q, k) int64, best first, ``step`` queries at a time.

        The indices take the place of the keys.
        """
        scores = self.keys.new_empty(self.keys.shape, dtype=torch.float32)
        for part in parts(len(scores), step):
            ordered = self.keys[part].sort(dim=1, descending=True).values
            scores[part], self.keys[part] = order.unpack(ordered)
        return scores, self.keys


@dataclass(frozen=True)
class QueryBlock:
    """Some queries, prepared: what rescoring and repair want of them. Each screen adds its own."""

    exact: Tensor  # (>= Q, Cpad) fp64, zero-padded
    norm: Tensor  # (>= Q,) fp64, not finite where the query is not
    best: RunningTopK
    request: Request  # its mask is that of these queries
    plan: ScanPlan

    @property
    def count(self) -> int:
        return len(self.best.keys)


@dataclass(frozen=True)
class Originals:
    """Some prototypes as given, which the positions of a screen's tiles lead to."""

    first_row: int  # of all prototypes
    rows: Tensor  # (rows, C), readable by kernels on the queries' device
    mask: Tensor  # (Q, rows) uint8, with strides of 0 where it was given as less
    row_in_page: Tensor | None = None  # int16 by position; None: a position is a row
    unmatchable: Tensor | None = None  # uint8 by position: never matches
    span: int = 1  # rows of a page

    @property
    def positions(self) -> int:
        return len(self.rows if self.row_in_page is None else self.row_in_page)

    def of(self, queries: slice) -> "Originals":
        return replace(self, mask=self.mask[queries])


@dataclass(frozen=True)
class Groups:
    """Groups of prototypes, and the best of them, best first: by their bounds, which prove them."""

    bounds: Tensor  # (Qpad, groups) fp32: no score in a group is above; -inf once it is rescored
    upper: Tensor  # (Q, kept + 1) the best of the bounds, or all
    index: Tensor  # (Q, kept + 1) int64: whose they are
    kept: int  # how many are rescored; the one behind them is the witness of all others


@dataclass(frozen=True)
class Best:
    """The k best of each query so far, best first: what a search returns in the end."""

    scores: Tensor  # (Q, k) fp32, -inf for none
    indices: Tensor  # (Q, k) int64, -1 for none
    flags: Tensor  # int32, of triton_backend/device/flags.py; one tensor for all queries

    @classmethod
    def empty(cls, queries: Tensor, k: int) -> "Best":
        scores = queries.new_full((queries.shape[0], k), -torch.inf, dtype=torch.float32)
        indices = queries.new_full((queries.shape[0], k), -1, dtype=torch.int64)
        return cls(scores, indices, queries.new_zeros(len(Flag), dtype=torch.int32))

    def of(self, queries: slice) -> "Best":
        return Best(self.scores[queries], self.indices[queries], self.flags)


@dataclass(frozen=True)
class Entries:
    """What scans append and settling reads: for each query ``segments`` of ``capacity`` entries."""

    failed: Tensor  # (1 + Q,) int32, how many queries failed in a run, and which
    entries: Tensor  # (Qpad * segments * capacity,) int64
    counts: Tensor  # (Qpad * segments,) int32: how many there would be
    groups: Tensor  # (programs, slots) int32, scratch of settling, as are rows and found
    rows: Tensor
    found: Tensor

    @classmethod
    def of(cls, codes: Tensor, count: int, k: int, plan: CodesPlan) -> "Entries":
        """For ``count`` queries, of whose ``codes`` (Qpad, width) there may be more."""
        new, segments = codes.new_empty, codes.shape[0] * plan.segments
        programs = min(plan.programs, count)
        return cls(
            new(1 + count, dtype=torch.int32),
            new(segments * plan.capacity, dtype=torch.int64),
            new(segments, dtype=torch.int32),
            new((programs, plan.slots), dtype=torch.int32),
            new((programs, PACK * GROUP), dtype=torch.int64),
            new((programs, 2 * (k + room_for(k))), dtype=torch.int64),
        )


def parts(count: int, step: int) -> list[slice]:
    """``count`` queries, ``step`` at a time."""
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


def whole_mask(queries: Tensor, rows: int, request: Request) -> Tensor:
    """(Q, rows) uint8, with strides of 0 where the mask was given as less."""
    if request.mask is None:
        return queries.new_ones(1, dtype=torch.uint8).expand(len(queries), rows)
    return request.mask.view(torch.uint8).expand(len(queries), rows)
