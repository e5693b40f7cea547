"""What the stages of a search hand on: queries and the best found for them, prototypes, entries."""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ..contract.chunks import cut
from ..contract.request import Request
from .device.flags import Flag
from .plan import SearchPlan
from .rounds import PACK, room_for
from .tiles import GROUP


@dataclass(frozen=True)
class Best:
    """The k best of each query so far, best first: what a search returns in the end."""

    scores: Tensor  # (Q, k) fp32, -inf for none
    indices: Tensor  # (Q, k) int64, -1 for none
    flags: Tensor  # int32, of triton_backend/device/flags.py; one tensor for all queries

    @classmethod
    def unfilled(cls, queries: Tensor, k: int) -> "Best":
        """Room, which the first stage of a search fills with nothing."""
        scores = queries.new_empty((queries.shape[0], k), dtype=torch.float32)
        indices = queries.new_empty((queries.shape[0], k), dtype=torch.int64)
        return cls(scores, indices, queries.new_zeros(len(Flag), dtype=torch.int32))

    @classmethod
    def empty(cls, queries: Tensor, k: int) -> "Best":
        best = cls.unfilled(queries, k)
        best.scores.fill_(-torch.inf)
        best.indices.fill_(-1)
        return best

    def of(self, queries: slice) -> "Best":
        scores = cut(self.scores, queries)
        if scores is self.scores:
            return self
        return Best(scores, self.indices[queries], self.flags)


@dataclass(frozen=True)
class CodedQueries:
    """What the int8 screen multiplies."""

    codes: Tensor  # (Qpad, width) int8
    terms: Tensor  # (4, Qpad) fp32, of int8.query_terms


@dataclass(frozen=True)
class ScaledQueries:
    """What the TF32 screen multiplies."""

    unit: Tensor  # (Qpad, width) fp32, q / |q|
    scale: Tensor  # (Qpad,) fp32, of tf32.query_factors
    bias: Tensor


@dataclass(frozen=True)
class QueryBlock:
    """Some queries, prepared, and how far they are."""

    queries: Tensor  # (Q, C) as given
    request: Request  # its mask is that of these queries
    plan: SearchPlan
    best: Best
    norm: Tensor  # (Qpad,) fp64, not finite where the query is not
    thresholds: Tensor  # (Qpad,) fp32, proven lower bounds of the k-th scores
    resume: Tensor  # (Qpad,) int32, the first tile of the round where it failed; else NEVER
    screened: CodedQueries | ScaledQueries

    @property
    def count(self) -> int:
        return self.queries.shape[0]

    @property
    def padded(self) -> int:
        """Queries, those of padding included."""
        return self.norm.shape[0]

    @property
    def gain(self) -> float:
        """Of scores over what the proof of codes bounds."""
        return 2.0 if self.request.metric == "l2" else 1.0

    @cached_property
    def arguments(self) -> tuple[object, ...]:
        """What settle_kernel is told of these queries."""
        plan, best, k = self.plan, self.best, self.request.k
        codes = terms = None
        stride_t = stride_c = 0
        if isinstance(self.screened, CodedQueries):
            codes, terms = self.screened.codes, self.screened.terms
            stride_t, stride_c = terms.stride(0), codes.stride(0)
        return (
            self.queries, codes, self.norm, terms, self.thresholds, self.resume,
            best.scores, best.indices, best.flags, self.gain,
            self.count, k, room_for(k), plan.capacity, plan.segments,
            *self.queries.stride(), stride_t, stride_c,
        )  # fmt: skip


@dataclass(frozen=True)
class Originals:
    """Some prototypes as given, which positions lead to."""

    first_row: int  # of all prototypes
    rows: Tensor  # (rows, C), readable by kernels on the queries' device
    mask: Tensor  # (Q, rows) uint8, with strides of 0 where it was given as less
    row_in_page: Tensor | None = None  # int16 by position; None: a position is a row
    unmatchable: Tensor | None = None  # uint8 by position: never matches; None: words say so
    span: int = 1  # rows of a page

    @cached_property
    def arguments(self) -> tuple[object, ...]:
        """What settle_kernel is told of these prototypes."""
        rows, mask = self.rows, self.mask
        return (
            rows, mask, self.row_in_page, self.unmatchable,
            rows.shape[0], self.first_row, rows.shape[1], *rows.stride(), *mask.stride(),
        )  # fmt: skip

    @property
    def positions(self) -> int:
        return self.rows.shape[0] if self.row_in_page is None else self.row_in_page.shape[0]


@dataclass(frozen=True)
class CodedRows:
    """Codes of some prototypes, by position."""

    codes: Tensor  # (Mpad, width) int8
    group_terms: Tensor  # (groups, 4) fp32, of int8.group_bounds
    scan_terms: Tensor  # (groups, 4) fp32, of int8_scan.scan_terms
    words: Tensor  # (groups,) int32: bit j is set where member j may match


@dataclass(frozen=True)
class Run:
    """Some prototypes that are searched together, up to the last tile in use."""

    originals: Originals
    coded: CodedRows | None  # None: the TF32 screen reads the originals

    def of(self, queries: slice) -> "Run":
        """The same with the mask of some queries."""
        mask = cut(self.originals.mask, queries)
        if mask is self.originals.mask:
            return self
        return replace(self, originals=replace(self.originals, mask=mask))


@dataclass(frozen=True)
class Entries:
    """What scans append and settling reads: for each query ``segments`` of ``capacity`` entries."""

    entries: Tensor  # (Qpad * segments * capacity,) int64
    counts: Tensor  # (Qpad * segments,) int32: how many there would be
    groups: Tensor  # (programs, slots) int32, scratch of settling, as are rows and found
    rows: Tensor
    found: Tensor
    failed: Tensor  # (Q,) int32, queries that failed in a run
    n_failed: Tensor  # (1,) int32, how many

    @classmethod
    def of(cls, block: QueryBlock) -> "Entries":
        plan, k = block.plan, block.request.k
        new, segments = block.norm.new_empty, block.padded * plan.segments
        programs = min(plan.programs, block.count)
        return cls(
            new(segments * plan.capacity, dtype=torch.int64),
            new(segments, dtype=torch.int32),
            new((programs, plan.slots), dtype=torch.int32),
            new((programs, PACK * GROUP), dtype=torch.int64),
            new((programs, 2 * (k + room_for(k))), dtype=torch.int64),
            new(block.count, dtype=torch.int32),
            new(1, dtype=torch.int32),
        )

    @cached_property
    def arguments(self) -> tuple[Tensor, ...]:
        """What settle_kernel is told of them."""
        return (
            self.entries, self.counts, self.groups, self.rows, self.found, self.failed,
            self.n_failed,
        )  # fmt: skip


def parts(count: int, step: int) -> list[slice]:
    """``count`` queries, ``step`` at a time."""
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


def whole_mask(queries: Tensor, rows: int, request: Request) -> Tensor:
    """(Q, rows) uint8, with strides of 0 where the mask was given as less."""
    if request.mask is None:
        return queries.new_ones(1, dtype=torch.uint8).expand(len(queries), rows)
    return request.mask.view(torch.uint8).expand(len(queries), rows)
