"""A threshold before anything is scanned, from a sample of the codes: guessed, and checked after.

Of k best among M prototypes, a sample of S has about x = k S / M. What is the (x + 4 sqrt(x) + 2)nd
best of the sample is reached by fewer than k in the whole only by chance, of some 10^-5. The scan
excludes what does not reach it; where its k-th score proves not to either, the query is scanned
again (``Int8Scan.missed``). So it costs nothing but time to guess too high.

It pays where many are wanted: thresholds that rise with what was seen let pass the k best of every
part that has been seen for the first time. It also pays where rows are in some order.
"""

import math

import torch
from torch import Tensor

from ..int8_scan import Int8Scan, Pages, maxima_of
from ..int8_search import Run

LEAST_K = 32
"""With fewer, as many reach the guess as reach a threshold that rises."""

_SHARE = 16
"""One in so many pages is sampled; at least _LEAST, for whose neighbours it is to speak."""
_LEAST = 8


def take_guess(scan: Int8Scan, runs: list[Run]) -> None:
    """Give ``scan`` a guess, where it pays and something is screened."""
    k, plan = scan.candidates.k, scan.block.plan
    if scan.sieve is None or k < LEAST_K:
        return
    units = _units(runs)
    rows = sum(last - first for _, first, last in units) * runs[0][0].layout.span
    stride = min(_SHARE, len(units) // _LEAST)
    if stride < 2 or rows < 4 * plan.coded_rows:
        return
    expected = k / stride
    rank = math.ceil(expected + 4 * math.sqrt(expected) + 2)
    best = scan.coded.scale.new_empty(len(scan.coded.scale), 0)
    for unit in units[stride // 2 :: stride]:
        best = torch.cat([best, _best_of_groups(scan, Pages(*unit))], 1)
        best = best.topk(min(rank, best.shape[1]), 1).values
    if best.shape[1] == rank:
        scan.guess = best[:, -1]
        scan.next_raise = rows * expected // rank  # what was seen says no more before


def _units(runs: list[Run]) -> list[Run]:
    """The pages of ``runs``, in what is multiplied at once at least."""
    units = []
    for codes, first, last in runs:
        pages = max(1, codes.held.pack_rows // codes.layout.span)
        units += [(codes, at, min(at + pages, last)) for at in range(first, last, pages)]
    return units


def _best_of_groups(scan: Int8Scan, pages: Pages) -> Tensor:
    """(Q, G) fp64 screened values, about, of the best of each group; -inf where none may match.

    A group has one value here: those of the sample that rank highest may rank lower than it seems.
    """
    maxima = maxima_of(scan.multiply(pages), pages.layout)
    scale, _, _, bias = pages.bounds.double().unbind(1)
    values = maxima * (scale * scan.coded.scale[:, None]) + (bias + scan.coded.shift[:, None])
    return values.masked_fill_(maxima == pages.lowest, -torch.inf)
