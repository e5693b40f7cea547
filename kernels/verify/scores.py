"""Every score in fp64, one block of queries beside one chunk of prototypes at a time.

A pass over a chunk is one product of matrices and few operations of its size, each as large as
memory allows: beside busy processes, every operation that threads share may wait for one of them.

For l2, sums of squared differences cost twenty times a product (Xeon with AMX, one thread, 256 x
2,048 x 512). So a product finds the pairs that may be near enough. Let u = 2^-53. As
-|q - p|^2 / 2 = q.p - |p|^2 / 2 - |q|^2 / 2, and gamma_n as in verify/intervals.py, its evaluation
errs by at most gamma_C |q||p| for the product, gamma_(C + 6) (|p|^2 + |q|^2) / 2 for the squares of
norms, and a few u (|p|^2 + |q|^2) for what is added to them; |q||p| <= (|p|^2 + |q|^2) / 2. All of
that is below (C + 16) 2^-51 (|p|^2 + |q|^2) / 2, which is added to every score: what is then still
below a limit is below it in truth. Those that are not are evaluated by the definition. No product
of finite vectors overflows, but to inf in its last bits: |q||p| <= max(|q|^2, |p|^2). What
underflows cannot matter beside the spacing of fp32, 2^-149.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .intervals import score_interval

_COSINE_EPS = 1e-8
_AT_MOST = 1 - 2.0**-50
"""A root and its square change a sum by less than 2^-51 of it: times this, never to more."""
_CHUNK_ELEMENTS = 1 << 21  # of prototypes at a time: 16 MiB in fp64
_TABLE_ELEMENTS = 1 << 20  # pairs at a time: 8 MiB in fp64
_PAIR_ELEMENTS = 1 << 19  # of chosen pairs at a time, gathered: 4 MiB in fp64, three times
_CROWDED = 6  # a pair by itself takes as long as this many of a whole table (l2, 512 channels)


@dataclass(frozen=True)
class Vectors:
    """Rows (n, C) fp64, and norms (n,) fp64: inf or NaN where a row never matches."""

    rows: Tensor
    norms: Tensor

    @classmethod
    def of(cls, vectors: Tensor, device: torch.device) -> "Vectors":
        rows = vectors.to(device, torch.float64)
        if rows.shape[1] == 1:  # here torch would take the norm without a square, which overflows
            return cls(rows, rows.square().sqrt()[:, 0])
        return cls(rows, torch.linalg.vector_norm(rows, dim=1))


@dataclass
class Chunk:
    """A block of R queries beside P prototypes, the first of which has the index ``first``."""

    queries: Vectors
    prototypes: Vectors
    metric: str
    allowed: Tensor | None  # (R, P) or (P,), by the caller's mask
    first: int

    @property
    def span(self) -> tuple[int, int]:
        """The first index, and the first behind the last."""
        return self.first, self.first + len(self.prototypes.rows)

    @cached_property
    def scores(self) -> Tensor:
        """(R, P) fp64, by the metric's definition; for l2, up to 2^-49 of the score above what the
        sum of squares gives: never below the least score that can be had, and not always one."""
        return _scores(self.queries, self.prototypes, self.metric)

    def reaching(self, limits: Tensor) -> Tensor:
        """(R, P) bool: False where the score is below its query's of ``limits`` (R,) fp64, or the
        caller's mask forbids the pair. For l2, True also a little below. Of vectors that are not
        finite, either."""
        if self.metric == "l2":
            share = 1 - (self.queries.rows.shape[1] + 16) * 2.0**-51
            q_half, p_half = (
                x.norms * (share / 2) * x.norms for x in (self.queries, self.prototypes)
            )
            raised = torch.addmm(-p_half[None], self.queries.rows, self.prototypes.rows.T)
            found = raised >= (limits / 2 + q_half)[:, None]
        else:
            found = self.scores >= limits[:, None]
        return found if self.allowed is None else found.logical_and_(self.allowed)

    def may_match(self, rows: Tensor, columns: Tensor) -> Tensor:
        """(n,) bool, of pairs: by their norms and the caller's mask."""
        fine = self.queries.norms[rows].isfinite() & self.prototypes.norms[columns].isfinite()
        if self.allowed is None:
            return fine
        one_row = self.allowed.ndim == 1
        return fine & (self.allowed[columns] if one_row else self.allowed[rows, columns])

    def of_pairs(self, rows: Tensor, columns: Tensor) -> Tensor:
        """(n,) fp32 scores of pairs, each one that can be had."""
        if self.metric != "l2":
            return rounded(self.scores[rows, columns])
        q, p = self.queries.rows, self.prototypes.rows
        step = max(1, _PAIR_ELEMENTS // q.shape[1])
        parts = [
            rounded(q[r].sub_(p[c]).square_().sum(1).neg_())
            for r, c in zip(rows.split(step), columns.split(step), strict=True)
        ]
        return torch.cat(parts)

    def never_below(self, rows: Tensor, columns: Tensor) -> Tensor:
        """(n,) fp32 scores of pairs, none below the least that can be had; ``rows`` ascend."""
        if self.metric == "l2":
            some, place = rows.unique_consecutive(return_inverse=True)
            if len(rows) * _CROWDED > len(some) * len(self.prototypes.rows):
                few = Vectors(self.queries.rows[some], self.queries.norms[some])
                return rounded(_scores(few, self.prototypes, "l2")[place, columns])
        return self.of_pairs(rows, columns)


def rounded(scores: Tensor) -> Tensor:
    """Scores in fp32; -0 and 0 are one score."""
    return scores.float().add_(0.0)


def _scores(queries: Vectors, prototypes: Vectors, metric: str) -> Tensor:
    if metric == "l2":  # of differences: nothing cancels
        apart = torch.cdist(
            queries.rows, prototypes.rows, compute_mode="donot_use_mm_for_euclid_dist"
        )
        return apart.square_().mul_(-_AT_MOST)
    products = queries.rows @ prototypes.rows.T
    if metric == "dot":
        return products
    q_norms, p_norms = (x.norms.clamp(min=_COSINE_EPS) for x in (queries, prototypes))
    return products.div_(q_norms[:, None] * p_norms)


class Problem:
    """What is searched: queries (Q, C), chunks of prototypes (M_i, C), a metric, a mask."""

    def __init__(
        self, queries: Tensor, chunks: list[Tensor], metric: str, mask: Tensor | None
    ) -> None:
        self.queries, self.chunks, self.metric, self.mask = queries, chunks, metric, mask
        self.chunk_rows = max(1, _CHUNK_ELEMENTS // queries.shape[1])
        """Prototypes at a time."""

    def query_rows(self, k: int) -> int:
        """Queries at a time; a rank takes about as much as four pairs."""
        widest = min(self.chunk_rows, max(map(len, self.chunks)))
        return max(1, _TABLE_ELEMENTS // max(widest, self.queries.shape[1], 4 * k))

    def chunks_for(self, rows: Tensor) -> Iterator[Chunk]:
        """All prototypes, chunk by chunk, beside the queries ``rows`` (R,). Each is to be dropped
        before the next is asked for, which takes as much memory."""
        queries, first = Vectors.of(self.queries[rows], self.queries.device), 0
        for part in (part for chunk in self.chunks for part in chunk.split(self.chunk_rows)):
            if len(part) == 0:
                continue
            allowed = None
            if self.mask is not None:
                columns = self.mask[..., first : first + len(part)]
                allowed = columns[rows] if columns.ndim == 2 else columns
            device = queries.rows.device
            yield Chunk(queries, Vectors.of(part, device), self.metric, allowed, first)
            first += len(part)

    def interval(self, row: int, index: int) -> tuple[float, float]:
        """Least and greatest fp32 score that an fp64 evaluation of one pair can give."""
        for chunk in self.chunks:
            if index < len(chunk):
                query, prototype = self.queries[row].double(), chunk[index].double()
                return score_interval(query.tolist(), prototype.tolist(), self.metric)
            index -= len(chunk)
        raise IndexError(index)
