"""What is found of a block of queries, piece by piece, and the one result that is made of it."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...contract import order
from ...contract.matches import RangeMatches, offsets_of


class Piece(NamedTuple):
    """Matches by query, then by index; those of a later piece have larger indices."""

    counts: Tensor
    """(Q,) int64: how many each query has."""
    indices: Tensor
    """(n,) int64"""
    scores: Tensor
    """(n,) fp32"""


def of_pairs(queries: Tensor, indices: Tensor, scores: Tensor, count: int) -> Piece:
    """Pairs (n,) in any order, of ``count`` queries. Indices are below 2^32."""
    by_query = ((queries << 32) | indices).argsort()
    counts = torch.bincount(queries, minlength=count)
    return Piece(counts, indices[by_query], scores[by_query])


def of_table(reached: Tensor, scores: Tensor, first: int) -> Piece:
    """The entries of ``scores`` (Q, P) that are ``reached`` (Q, P) bool; column 0 is ``first``."""
    counts, chosen, indices = _entries(reached)
    return Piece(counts, indices + first, scores.flatten()[chosen])


def true_entries(reached: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns (n,) where ``reached`` (Q, P) is true, as ``nonzero`` gives them."""
    counts, chosen, columns = _entries(reached)
    each = torch.arange(len(counts), device=counts.device)
    return each.repeat_interleave(counts, output_size=len(chosen)), columns


def _entries(reached: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How many each row has (Q,), and which, flat and by column (n,)."""
    if reached.is_cpu:  # torch takes ten times as long where many are
        chosen = torch.from_numpy(np.flatnonzero(reached.numpy()))
    else:
        chosen = reached.flatten().nonzero()[:, 0]
    rows, columns = reached.shape
    starts = torch.arange(0, (rows + 1) * columns, columns, device=reached.device)
    counts = torch.searchsorted(chosen, starts).diff()
    return counts, chosen, chosen - starts[:-1].repeat_interleave(counts, output_size=len(chosen))


def in_one(pieces: Sequence[Piece]) -> Piece:
    """All of a block's, of which there is one at least."""
    if len(pieces) == 1:
        return pieces[0]
    counts = torch.stack([piece.counts for piece in pieces])
    total = counts.sum(0)
    # Of each piece and query, where its matches go.
    starts = (total.cumsum(0) - total) + (counts.cumsum(0) - counts)
    found = sum(len(piece.indices) for piece in pieces)
    indices, scores = pieces[0].indices.new_empty(found), pieces[0].scores.new_empty(found)
    for piece, start in zip(pieces, starts, strict=True):
        here = len(piece.indices)
        shift = start - (piece.counts.cumsum(0) - piece.counts)
        to = torch.arange(here, device=shift.device)
        to += shift.repeat_interleave(piece.counts, output_size=here)
        indices[to], scores[to] = piece.indices, piece.scores
    return Piece(total, indices, scores)


def best_of(piece: Piece, limit: int) -> Piece:
    """The ``limit`` best of each query, still by index."""
    if int(piece.counts.max()) <= limit:
        return piece
    by_score = _by_score(piece)
    ends = piece.counts.cumsum(0)
    ranks = torch.arange(len(by_score), device=ends.device)
    ranks -= (ends - piece.counts).repeat_interleave(piece.counts, output_size=len(ranks))
    stays = torch.zeros_like(ranks, dtype=torch.bool)
    stays[by_score[ranks < limit]] = True
    return Piece(piece.counts.clamp(max=limit), piece.indices[stays], piece.scores[stays])


def lowest_of(piece: Piece) -> Tensor:
    """(Q,) the lowest score of each query; inf where it has none."""
    lowest = piece.scores.new_full(piece.counts.shape, torch.inf)
    each = torch.arange(len(lowest), device=lowest.device)
    owners = each.repeat_interleave(piece.counts, output_size=len(piece.scores))
    return lowest.scatter_reduce_(0, owners, piece.scores, "amin")


def result_of(blocks: Sequence[Piece], is_sorted: bool) -> RangeMatches:
    """Of blocks of queries, one behind another; ``is_sorted``: by score, not by index."""
    if is_sorted:
        blocks = [_sorted(block) for block in blocks]
    counts, indices, scores = map(torch.cat, zip(*blocks, strict=True))
    return RangeMatches(offsets_of(counts), indices, scores)


def _sorted(piece: Piece) -> Piece:
    by_score = _by_score(piece)
    return Piece(piece.counts, piece.indices[by_score], piece.scores[by_score])


def _by_score(piece: Piece) -> Tensor:
    """(n,) int64: the order of matches within each query; they come by index."""
    owners = torch.arange(len(piece.counts), device=piece.counts.device)
    owners = owners.repeat_interleave(piece.counts, output_size=len(piece.scores))
    places = torch.arange(len(piece.scores), device=owners.device)
    by_score = (order.pack(piece.scores, places) ^ -1).argsort()
    return by_score[owners[by_score].argsort(stable=True)]
