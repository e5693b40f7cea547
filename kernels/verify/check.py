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

import os
from collections.abc import Iterator
from itertools import islice
from math import inf

import torch
from torch import Tensor

from ..arrays.taken import AnyArray, as_mask, as_prototypes, as_tensor, as_vectors
from ..concurrency.fit_thread import in_fit_thread
from ..contract import arguments, metrics
from .report import LISTED, Disagreement, Verification
from .scores import Chunk, Problem, rounded

_NEVER = 2**63 - 1  # the index of an empty rank: after every prototype
_PAIRS = 1 << 17  # looked at a second time at a time, at most about 60 bytes each


def verify(
    queries: AnyArray,
    prototypes: AnyArray | str | os.PathLike,
    matches: tuple[AnyArray, AnyArray],
    *,
    metric: str = "cosine",
    mask: AnyArray | None = None,
    sample: int | None = None,
) -> Verification:
    """Check matches against the contract, independently of the search that found them.

    Scores must be the metric evaluated in fp64 and rounded once to fp32, ordered by score
    descending, then index ascending; -0 and 0 are one score. Where two fp64 evaluations of a pair
    can provably differ across an fp32 rounding boundary, either score is right, and so is either
    order that follows from it; nothing else is tolerated. Prototypes with NaN, inf or a sum of
    squares beyond fp64 must not be listed, and such queries must have no matches.

    Args:
        queries: (Q, C), float32, float16, bfloat16 or float64, any strides: a tensor, array, column
            or sequence of rows, as of ``topk``.
        prototypes: (M, C) of any of these, a sequence of (M_i, C) that are chunks of one set,
            numbered through, or the path of a file; dtype and device may differ from the queries'
            and from each other's.
        matches: scores (Q, k) float32 and indices (Q, k) int64, on any device and of any kind: the
            result of ``topk``, or any such pair; of a library without int64, indices in int32. -inf
            and -1 where fewer than k may match.
        metric: ``"cosine"``, ``"dot"`` or ``"l2"``, as in ``topk``.
        mask: bool, (M,) or (Q, M), of any kind; a tensor is on the queries' device. True = may
            match.
        sample: how many queries to check, drawn by a fixed seed: the same ones for the same Q, and
            not evenly spaced, which would meet the same row of every tile. None = every query.

    Returns:
        ``Verification``: true if all is right, and a readable report if not.

    Raises:
        TypeError, ValueError: naming the argument, what was expected, and what was given.

    Runs on the queries' device, which must know fp64. Time is O(Q M C). Memory beyond the inputs is
    at most 64 MiB and one int64 per query, or some rows of C or k elements where these are larger.
    """
    queries = as_vectors("queries", queries)
    arguments.require_vectors("queries", queries)
    chunks = arguments.require_prototypes(as_prototypes(prototypes))
    arguments.require_same_channels(queries, chunks)
    arguments.require_choice("metric", metric, metrics.METRICS)
    mask = as_mask(mask, queries.device)
    arguments.require_mask(mask, len(queries), sum(map(len, chunks)), queries.device)
    if sample is not None:
        sample = arguments.require_int("sample", sample, least=1)
    scores, indices = _require_matches(matches, len(queries))
    problem, chosen = Problem(queries, chunks, metric, mask), _chosen(len(queries), sample)
    return in_fit_thread([queries, *chunks], _verified, problem, chosen, scores, indices)


@torch.no_grad()
def _verified(problem: Problem, chosen: Tensor, scores: Tensor, indices: Tensor) -> Verification:
    queries, wrong, listed, error = problem.queries, 0, [], 0.0
    for rows in chosen.split(problem.query_rows(scores.shape[1])):
        got = [x[rows.to(x.device)].to(queries.device) for x in (scores, indices)]
        rows = rows.to(queries.device)
        bad, block_error = _examine(problem, rows, *got)
        error = max(error, block_error)
        wrong += int(bad.sum())
        shown = bad.nonzero()[: max(0, LISTED - len(listed)), 0]
        if len(shown):
            found = _disagreements(problem, rows[shown], got[0][shown], got[1][shown])
            listed += islice(found, LISTED - len(listed))
    return Verification(len(chosen), wrong, tuple(listed), error)


def _require_matches(matches: object, queries: int) -> tuple[Tensor, Tensor]:
    pair = matches if isinstance(matches, (tuple, list)) else (matches,)
    if len(pair) != 2:
        what = ", ".join(type(x).__name__ for x in pair)
        raise TypeError(f"matches must be a pair of arrays (scores, indices); got ({what})")
    scores = as_tensor("matches' scores", pair[0])
    indices = as_tensor("matches' indices", pair[1])
    if indices is not pair[1] and indices.dtype == torch.int32:  # of a library without int64
        indices = indices.long()
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


def _examine(
    problem: Problem, rows: Tensor, scores: Tensor, indices: Tensor
) -> tuple[Tensor, float]:
    """Which of the queries ``rows`` (R,) are wrong, and the largest score error among them."""
    if indices.numel() == 0:
        return torch.zeros_like(rows, dtype=torch.bool), 0.0
    k = indices.shape[1]
    empty = (indices == -1) & (scores == -inf)
    order_indices = indices.masked_fill(empty, _NEVER)
    last = scores[:, -1], order_indices[:, -1]
    wrong = _out_of_order(scores, order_indices) | _repeated(order_indices)
    listed, own = torch.zeros_like(empty), torch.full_like(scores, torch.nan)
    ascending = indices.flatten().sort()  # so that those of a chunk are found without a search
    for chunk in problem.chunks_for(rows):
        ends = torch.searchsorted(ascending.values, ascending.values.new_tensor(chunk.span))
        here = slice(*ends.tolist())
        place, columns = ascending.indices[here], ascending.values[here] - chunk.first
        own.view(-1)[place] = chunk.of_pairs(place // k, columns)
        listed.view(-1)[place] = chunk.may_match(place // k, columns)
        _mark_left_out(wrong, problem, rows, chunk, (place // k, columns), last)
        del chunk
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
    problem: Problem,
    rows: Tensor,
    chunk: Chunk,
    listed: tuple[Tensor, Tensor],
    last: tuple[Tensor, Tensor],
) -> None:
    """Mark queries where a prototype of ``chunk`` is certain to precede the last match, and is not
    among the pairs (R, P) ``listed``.

    Our own score of a pair is never below the least attainable. So a prototype that does not
    precede the last match by our own score is not certain to, and needs no second look.
    """
    limits = _least_to_precede(*last, chunk.first)
    found = chunk.reaching(limits.masked_fill(wrong | ~chunk.queries.norms.isfinite(), inf))
    found[listed] = False
    step = max(1, _PAIRS // found.shape[1])
    for start in range(0, len(rows), step):
        r, columns = found[start : start + step].nonzero(as_tuple=True)
        if len(r) == 0:  # as nearly always
            continue
        fit = chunk.may_match(r + start, columns) & ~wrong[r + start]
        r, columns = r[fit] + start, columns[fit]
        own, indices = chunk.never_below(r, columns), columns + chunk.first
        ahead = _precedes(own, indices, last[0][r], last[1][r])
        r, own, indices = r[ahead], own[ahead], indices[ahead]
        queries, counts = r.unique_consecutive(return_counts=True)
        sizes = counts.tolist()
        for i, scores, rivals in zip(
            queries.tolist(), own.split(sizes), indices.split(sizes), strict=True
        ):
            best_first = rivals[scores.argsort(descending=True)].tolist()
            least = ((problem.interval(int(rows[i]), index)[0], index) for index in best_first)
            wrong[i] = any(_precedes(*match, last[0][i], last[1][i]) for match in least)


def _least_to_precede(last: Tensor, last_index: Tensor, first: int) -> Tensor:
    """(R,) fp64: below it, no score of an index from ``first`` on precedes the last match.

    It rounds to less than the score of the last match, or, of an index behind that, to no more:
    both end half way to the next fp32 number.
    """
    below = last.where(first > last_index, last.nextafter(last.new_tensor(-inf)))
    above = below.nextafter(below.new_tensor(inf)).double()
    return (below.double() + above.clamp(max=2.0**128)) / 2  # where fp32 ends, inf is 2^128


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
    problem: Problem, rows: Tensor, scores: Tensor, indices: Tensor
) -> Iterator[Disagreement]:
    """The ranks at which the matches (R, k) of the queries ``rows`` (R,) differ from our search."""
    k = scores.shape[1]
    own = [(scores.new_empty(0), indices.new_empty(0))] * len(rows)
    for chunk in problem.chunks_for(rows):
        every = torch.arange(len(chunk.prototypes.rows), device=rows.device)
        for i in range(len(rows)):
            columns = every[chunk.may_match(every.new_tensor(i), every)]
            values = torch.cat([own[i][0], rounded(chunk.scores[i, columns])])
            # Indices ascend and the sort is stable, so equal scores keep the order of indices.
            best = values.sort(descending=True, stable=True)
            ordered = torch.cat([own[i][1], columns + chunk.first])[best.indices[:k]]
            own[i] = best.values[:k], ordered
        del chunk
    for i, found in enumerate(own):
        pairs = zip(_filled(found, k), _filled((scores[i], indices[i]), k), strict=True)
        for rank, (wanted, given) in enumerate(pairs):
            if wanted != given:
                yield Disagreement(int(rows[i]), rank, *wanted, *given)


def _filled(matches: tuple[Tensor, Tensor], k: int) -> list[tuple[int, float]]:
    """Index and score of k ranks, with -1 and -inf behind the last match."""
    scores, indices = (x.tolist() for x in matches)
    none = k - len(scores)
    return list(zip(indices + [-1] * none, scores + [-inf] * none, strict=True))
