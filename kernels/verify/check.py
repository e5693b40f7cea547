"""The independent check of a result, whoever found it: flashmatch, FAISS, or a cluster.

Checking is easier than searching, and shares no code with it. Matches are right where some fp64
evaluation of the scores has them as its top k, which is to say:

pairs      every index is a prototype that may match, listed once, with a score that an fp64
           evaluation of this pair can give
order      by score descending, then index ascending, as listed
left out   no other prototype that may match is certain to precede the last one listed

One fp64 evaluation of every pair, rounded to fp32, settles nearly all of it. What it leaves open is
settled pair by pair in exact arithmetic (verify/intervals.py), which proves how far apart two fp64
evaluations can lie. The only tolerance is that proof.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from ..concurrency.fit_thread import in_fit_thread
from ..contract import arguments, metrics
from .intervals import score_interval
from .report import LISTED, Disagreement, Verification

_COSINE_EPS = 1e-8
_AT_MOST = 1 - 2.0**-50
"""A root and its square change a sum by less than 2^-51 of it: times this, never to more."""
_NEVER = 2**63 - 1  # the index of an empty rank: after every prototype
_CHUNK_ELEMENTS = 1 << 19  # of prototypes at a time: 4 MiB in fp64
_TABLE_ELEMENTS = 1 << 20  # pairs at a time, at most about 50 bytes each


def verify(
    queries: Tensor,
    prototypes: Tensor | Sequence[Tensor],
    matches: tuple[Tensor, Tensor],
    *,
    metric: str = "cosine",
    mask: Tensor | None = None,
    sample: int | None = None,
) -> Verification:
    """Check matches against the contract, independently of the search that found them.

    Scores must be the metric evaluated in fp64 and rounded once to fp32, ordered by score
    descending, then index ascending; -0 and 0 are one score. Where two fp64 evaluations of a pair
    can provably differ across an fp32 rounding boundary, either score is right, and so is either
    order that follows from it; nothing else is tolerated. Prototypes with NaN, inf or a sum of
    squares beyond fp64 must not be listed, and such queries must have no matches.

    Args:
        queries: (Q, C), float32, float16, bfloat16 or float64, any strides.
        prototypes: (M, C), or a sequence of (M_i, C) that are chunks of one set, numbered through;
            dtype and device may differ from the queries' and from each other's.
        matches: scores (Q, k) float32 and indices (Q, k) int64, on any device: the result of
            ``topk``, or any pair of such tensors. -inf and -1 where fewer than k may match.
        metric: ``"cosine"``, ``"dot"`` or ``"l2"``, as in ``topk``.
        mask: bool, (M,) or (Q, M), on the queries' device; True = may match.
        sample: how many queries to check, drawn by a fixed seed: the same ones for the same Q, and
            not evenly spaced, which would meet the same row of every tile. None = every query.

    Returns:
        ``Verification``: true if all is right, and a readable report if not.

    Raises:
        TypeError, ValueError: naming the argument, what was expected, and what was given.

    Runs on the queries' device, which must know fp64. Time is O(Q M C). Memory beyond the inputs is
    at most 64 MiB and one int64 per query, or some rows of C or k elements where these are larger.
    """
    arguments.require_vectors("queries", queries)
    chunks = arguments.require_prototypes(prototypes)
    arguments.require_same_channels(queries, chunks)
    arguments.require_choice("metric", metric, metrics.METRICS)
    arguments.require_mask(mask, len(queries), sum(map(len, chunks)), queries.device)
    if sample is not None:
        sample = arguments.require_int("sample", sample, least=1)
    scores, indices = _require_matches(matches, len(queries))
    problem, chosen = _Problem(queries, chunks, metric, mask), _chosen(len(queries), sample)
    return in_fit_thread([queries, *chunks], _verified, problem, chosen, scores, indices)


@torch.no_grad()
def _verified(problem: "_Problem", chosen: Tensor, scores: Tensor, indices: Tensor) -> Verification:
    queries, wrong, listed, error = problem.queries, 0, [], 0.0
    for rows in chosen.split(problem.query_rows(scores.shape[1])):
        got = [x[rows.to(x.device)].to(queries.device) for x in (scores, indices)]
        bad, block_error = _examine(problem, rows.to(queries.device), *got)
        error = max(error, block_error)
        wrong += int(bad.sum())
        for i in bad.nonzero()[: max(0, LISTED - len(listed)), 0].tolist():
            listed += _disagreements(problem, int(rows[i]), got[0][i], got[1][i])
    return Verification(len(chosen), wrong, tuple(listed[:LISTED]), error)


def _require_matches(matches: object, queries: int) -> tuple[Tensor, Tensor]:
    pair = matches if isinstance(matches, (tuple, list)) else (matches,)
    if len(pair) != 2 or not all(isinstance(x, Tensor) for x in pair):
        what = ", ".join(type(x).__name__ for x in pair)
        raise TypeError(f"matches must be a pair of tensors (scores, indices); got ({what})")
    scores, indices = pair
    for name, x, dtype in (("scores", scores, torch.float32), ("indices", indices, torch.int64)):
        arguments.require_dense(f"matches' {name}", x)
        if x.dtype != dtype:
            raise TypeError(f"matches' {name} must be {dtype}; got {x.dtype}")
        if x.ndim != 2 or len(x) != queries:
            raise ValueError(f"matches' {name} must have shape ({queries}, k); got {(*x.shape,)}")
    if scores.shape != indices.shape:
        raise ValueError(
            "matches' scores and indices must have one shape; "
            f"got {(*scores.shape,)} and {(*indices.shape,)}"
        )
    return scores, indices


def _chosen(queries: int, sample: int | None) -> Tensor:
    if sample is None or sample >= queries:
        return torch.arange(queries)
    generator = torch.Generator().manual_seed(0)
    return torch.randperm(queries, generator=generator)[:sample].sort().values


@dataclass(frozen=True)
class _Problem:
    queries: Tensor
    chunks: list[Tensor]
    metric: str
    mask: Tensor | None

    @property
    def chunk_rows(self) -> int:
        """Prototypes at a time."""
        return max(1, _CHUNK_ELEMENTS // self.queries.shape[1])

    def query_rows(self, k: int) -> int:
        """Queries at a time; a rank takes about as much as two pairs."""
        widest = min(self.chunk_rows, max(map(len, self.chunks)))
        return max(1, _TABLE_ELEMENTS // max(widest, self.queries.shape[1], 2 * k))

    def tables(self, rows: Tensor) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
        """Chunk by chunk: its first index, scores (R, P) fp32, which pairs (R, P) may match, and
        the prototypes (P, C) fp64."""
        queries, first = self.queries[rows].double(), 0
        for part in (part for chunk in self.chunks for part in chunk.split(self.chunk_rows)):
            prototypes = part.to(queries.device).double()
            allowed = _finite(queries)[:, None] & _finite(prototypes)
            if self.mask is not None:
                columns = self.mask[..., first : first + len(part)]
                allowed &= columns[rows] if columns.ndim == 2 else columns
            scores = _scores(queries, prototypes, self.metric).float() + 0.0
            yield first, scores, allowed, prototypes
            first += len(part)

    def interval(self, row: int, index: int) -> tuple[float, float]:
        """Least and greatest fp32 score that an fp64 evaluation of one pair can give."""
        for chunk in self.chunks:
            if index < len(chunk):
                query, prototype = self.queries[row].double(), chunk[index].double()
                return score_interval(query.tolist(), prototype.tolist(), self.metric)
            index -= len(chunk)
        raise IndexError(index)


def _finite(vectors: Tensor) -> Tensor:
    return vectors.square().sum(-1).isfinite()


def _scores(queries: Tensor, prototypes: Tensor, metric: str) -> Tensor:
    """(R, C), (P, C) -> (R, P), all fp64, by the metric's definition; for l2, up to 2^-49 of the
    score above what the sum of squares gives: never below the least score that can be had, and not
    always one of them."""
    if metric == "l2":  # of differences: nothing cancels; in one pass: threads wait but once
        apart = torch.cdist(queries, prototypes, compute_mode="donot_use_mm_for_euclid_dist")
        return apart.square_().mul_(-_AT_MOST)
    products = queries @ prototypes.T
    if metric == "dot":
        return products
    q_norms, p_norms = (x.square().sum(-1).sqrt() for x in (queries, prototypes))
    return products / (q_norms.clamp(min=_COSINE_EPS)[:, None] * p_norms.clamp(min=_COSINE_EPS))


def _own_scores(
    queries: Tensor, prototypes: Tensor, pairs: tuple[Tensor, Tensor], table: Tensor, metric: str
) -> Tensor:
    """(n,) fp32 scores of pairs of rows and columns of ``table``, each one that can be had."""
    rows, columns = pairs
    if metric != "l2":
        return table[rows, columns]
    step = max(1, _TABLE_ELEMENTS // queries.shape[1])
    parts = [
        (queries[r].double() - prototypes[c]).square_().sum(1).neg_().float() + 0.0
        for r, c in zip(rows.split(step), columns.split(step), strict=True)
    ]
    return torch.cat(parts)


def _examine(
    problem: _Problem, rows: Tensor, scores: Tensor, indices: Tensor
) -> tuple[Tensor, float]:
    """Which of the queries ``rows`` (R,) are wrong, and the largest score error among them."""
    if indices.numel() == 0:
        return torch.zeros_like(rows, dtype=torch.bool), 0.0
    empty = (indices == -1) & (scores == -inf)
    order_indices = indices.masked_fill(empty, _NEVER)
    last = scores[:, -1], order_indices[:, -1]
    wrong = _out_of_order(scores, order_indices) | _repeated(order_indices)
    listed, own = torch.zeros_like(empty), torch.full_like(scores, torch.nan)
    queries = problem.queries[rows]
    for first, table, allowed, prototypes in problem.tables(rows):
        here = (indices >= first) & (indices < first + table.shape[1])
        r, rank = here.nonzero(as_tuple=True)
        column = indices[r, rank] - first
        own[r, rank] = _own_scores(queries, prototypes, (r, column), table, problem.metric)
        listed[r, rank] = allowed[r, column]
        allowed[r, column] = False  # from here on: left out
        _mark_left_out(wrong, problem, rows, first, table, allowed, last)
    wrong |= ~(listed | empty).all(1)
    differs = listed & (scores != own)
    for i in (differs.any(1) & ~wrong).nonzero()[:, 0].tolist():
        ranks = differs[i].nonzero()[:, 0]
        pairs = zip(scores[i, ranks].tolist(), indices[i, ranks].tolist(), strict=True)
        spans = ((score, problem.interval(int(rows[i]), index)) for score, index in pairs)
        wrong[i] = not all(least <= score <= greatest for score, (least, greatest) in spans)
    apart = (scores.double() - own.double()).abs().nan_to_num(nan=inf, posinf=inf)
    return wrong, float(apart.masked_fill(~listed | (scores == own), 0).max())


def _mark_left_out(
    wrong: Tensor,
    problem: _Problem,
    rows: Tensor,
    first: int,
    table: Tensor,
    left_out: Tensor,
    last: tuple[Tensor, Tensor],
) -> None:
    """Mark queries where a prototype of ``left_out`` (R, P) is certain to precede the last match.

    Our own score of a pair, in ``table``, is never below the least attainable. So a prototype that
    does not precede the last match by our own score is not certain to, and needs no second look.
    """
    indices = torch.arange(first, first + table.shape[1], device=table.device)
    ahead = left_out & _precedes(table, indices, last[0][:, None], last[1][:, None])
    for i in (ahead.any(1) & ~wrong).nonzero()[:, 0].tolist():
        rivals = ahead[i].nonzero()[:, 0]
        best_first = indices[rivals[table[i, rivals].argsort(descending=True)]].tolist()
        least = ((problem.interval(int(rows[i]), index)[0], index) for index in best_first)
        wrong[i] = any(_precedes(*match, last[0][i], last[1][i]) for match in least)


def _precedes(
    score: Tensor | float, index: Tensor | int, other_score: Tensor, other_index: Tensor
) -> Tensor:
    """Score descending, then index ascending; False for NaN."""
    return (score > other_score) | ((score == other_score) & (index < other_index))


def _out_of_order(scores: Tensor, order_indices: Tensor) -> Tensor:
    """Queries (R,) with a match that neither precedes the next one nor is as empty."""
    before, after = order_indices[:, :-1], order_indices[:, 1:]
    ordered = _precedes(scores[:, :-1], before, scores[:, 1:], after)
    return ~(ordered | ((before == _NEVER) & (after == _NEVER))).all(1)


def _repeated(order_indices: Tensor) -> Tensor:
    """Queries (R,) with one prototype at two ranks."""
    ordered = order_indices.sort(1).values
    return ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != _NEVER)).any(1)


def _disagreements(
    problem: _Problem, row: int, scores: Tensor, indices: Tensor
) -> list[Disagreement]:
    """The ranks at which the matches (k,) of one query differ from our own search."""
    own, own_indices = scores.new_empty(0), indices.new_empty(0)
    for first, table, allowed, _ in problem.tables(torch.tensor([row], device=scores.device)):
        columns = allowed[0].nonzero()[:, 0]
        # Indices ascend and the sort is stable, so equal scores keep the order of indices.
        best = torch.cat([own, table[0, columns]]).sort(descending=True, stable=True)
        own = best.values[: len(scores)]
        own_indices = torch.cat([own_indices, columns + first])[best.indices[: len(scores)]]
    none = len(scores) - len(own)
    expected = zip(own_indices.tolist() + [-1] * none, own.tolist() + [-inf] * none, strict=True)
    got = zip(indices.tolist(), scores.tolist(), strict=True)
    return [
        Disagreement(row, rank, *wanted, *given)
        for rank, (wanted, given) in enumerate(zip(expected, got, strict=True))
        if wanted != given
    ]
