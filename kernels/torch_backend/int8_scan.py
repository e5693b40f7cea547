"""The int8 scan of a block of queries: codes multiplied on integer units, many pages at once.

screen   products of codes in int32, and the maximum of each group of prototypes
select   groups, then members, whose product reaches the integer threshold of proofs/int8.py
sieve    those members in fp32, from the vectors themselves; this raises the threshold
rescore  what is left in the end, in fp64 (candidates.py, rescore.py)

Where too many members reach the threshold for this to pay, the float scan takes the pages.
"""

import torch
from torch import Tensor

from ..codes.layout import Layout
from ..codes.pages import Codes
from ..contract.metrics import COSINE_EPS
from ..products.pairs import chosen_dots
from ..proofs import int8
from .float_scan import FloatScan
from .float_screen import FloatScreen
from .plan import CODED_SPAN
from .query_block import QueryBlock

LAYOUT = Layout(CODED_SPAN, group=16, width_multiple=4)
"""Four codes are what VNNI adds at a time, and torch 2.11 leaves a product of width 1 unwritten."""
LAYOUT_CUDA = Layout(CODED_SPAN, group=16, width_multiple=16)
"""Without the Triton backend, where torch's product on CUDA wants multiples."""

_CROWDED_GROUPS = 4
"""So many times the share of the groups: few groups have more than one member left."""

_RAISE_AGAIN = 1.5
"""The threshold is raised again after so many times the rows: it rises ever more slowly."""

_GATHER_ELEMENTS = 1 << 22
"""Prototypes gathered for the sieve at a time: 16 MiB."""


class Int8Scan:
    """Pages of codes on their way past a block of queries."""

    crowded_share = 1 / 8
    """Where more of a block's pairs survive, the float scan costs less than a look at each."""

    def __init__(self, block: QueryBlock, codes: Codes, products: Tensor) -> None:
        """``codes``: those to come, or alike. ``products`` (n,), of the dtype of their products, is
        to be written to: at least queries times rows of a scan."""
        self.block, self.candidates = block, block.candidates
        self.float_scan = self.scan_of_floats()  # where pages go that this scan cannot thin
        self.products = products
        self.rows_seen = self.next_raise = 0
        self.guess: Tensor | None = None  # (Q,) fp64 screened values, see guess.py
        self.repaired = torch.zeros(len(block), dtype=torch.bool, device=block.queries.device)
        screen, self.sieve = block.screen, None
        # Underflow in the sieve is counted for no larger units than these.
        if screen is not None and not screen.normalises and screen.scale <= 1.0:
            self.sieve = _Sieve(block, screen)
            self.coded = codes.coded_queries(block.queries, block.norms)
            self.operand = codes.held.operand(self.coded.codes)

    def scan_of_floats(self) -> FloatScan:
        return FloatScan(self.block)

    def result(self) -> tuple[Tensor, Tensor]:
        """Scores and indices (Q, k)."""
        return self.float_scan.result()

    def missed(self) -> Tensor:
        """(Q,) bool: which queries the guess was too high for, once there is a result.

        What it excludes is below the k-th score if what is proven of that is no less.
        """
        if self.guess is None:
            return torch.zeros_like(self.repaired)
        return self.candidates.threshold.double() * self.candidates.units < self.guess

    def scan(self, codes: Codes, first_page: int, last_page: int) -> None:
        """Bring in pages of ``codes``."""
        if self.sieve is None or not self._scan(self.sieve, Pages(codes, first_page, last_page)):
            self.scan_pages_in_float(codes, first_page, last_page)

    def _scan(self, sieve: "_Sieve", pages: "Pages") -> bool:
        """Whether the pages were dealt with: False where too many members are left."""
        products, layout = self.multiply(pages), pages.layout
        maxima = maxima_of(products, layout)
        if not self.candidates.full and self.guess is None:
            self._raise_early(sieve, pages, products, maxima)
        threshold = self.candidates.least().double() * self.candidates.units
        if self.guess is not None:
            threshold = torch.maximum(threshold, self.guess)
        about = self.coded, pages.bounds, threshold
        thresholds = int8.integer_thresholds(*about, like=maxima)
        queries, groups = (maxima >= thresholds).nonzero(as_tuple=True)
        most = _CROWDED_GROUPS * self.crowded_share
        if len(queries) > most * maxima.numel():
            return self._give_up(queries, most * maxima.shape[1])
        each = layout.tile_groups
        values = members_of(products, layout)[queries, groups // each, :, groups % each]
        reached = values >= thresholds[queries, groups][:, None]
        pair, member = reached.nonzero(as_tuple=True)
        queries, groups = queries[pair], groups[pair]
        if len(queries) > self.crowded_share * products.numel():
            return self._give_up(queries, self.crowded_share * products.shape[1])
        rows = pages.rows(groups // each * layout.tile + member * each + groups % each)
        values, slack = sieve(pages, queries, rows)
        self.candidates.add(queries, rows + pages.first_row, values - slack, values + slack)
        self.rows_seen += products.shape[1]
        if self.candidates.crowded():
            self.candidates.tighten(self.block.prototypes)
        elif self.rows_seen >= self.next_raise:
            self.candidates.raise_threshold()
            self.next_raise = _RAISE_AGAIN * self.rows_seen
        return True

    def _give_up(self, queries: Tensor, most: float) -> bool:
        self.repaired |= torch.bincount(queries, minlength=len(self.repaired)) > most
        return False

    def scan_pages_in_float(self, codes: Codes, first_page: int, last_page: int) -> None:
        """Bring in the rows of these pages by the float scan."""
        start, stop = (page * codes.layout.span for page in (first_page, last_page))
        start, stop = codes.first_row + start, codes.first_row + min(stop, codes.count)
        self.scan_in_float(start, stop, codes.matchable(first_page, last_page))

    def scan_in_float(self, start: int, stop: int, matchable: Tensor | None = None) -> None:
        """Bring in rows start..stop of all prototypes by the float scan.

        ``matchable`` (stop - start,) bool, True where a row may match.
        """
        block, step = self.block, self.block.plan.chunk_rows
        if block.screen is None:
            self.repaired |= True
        for at in range(start, stop, step):
            to = min(at + step, stop)
            may = block.request.mask_of(at, to)
            if matchable is not None:
                here = matchable[at - start : to - start]
                may = here if may is None else may & here
            rows = block.prototypes.span(at, to, block.queries.device)
            self.float_scan.scan(rows, at, may)

    def multiply(self, pages: "Pages") -> Tensor:
        """(Q, P) products of codes, int32 or fp32, lowest where a prototype may not match."""
        products = pages.multiply(self.operand, self.products)
        closed = pages.unmatchable if bool(pages.unmatchable.any()) else None
        mask = self.block.request.mask
        if mask is not None:
            closed = pages.unmatchable | ~mask[..., pages.rows_of_all()]
        return products if closed is None else products.masked_fill_(closed, pages.lowest)

    def _raise_early(
        self, sieve: "_Sieve", pages: "Pages", products: Tensor, maxima: Tensor
    ) -> None:
        """A threshold from the k members that look best, before anything is excluded by one."""
        k, layout = self.candidates.k, pages.layout
        best = min(k, maxima.shape[1])
        if best * layout.group < k:
            return
        scale, _, _, bias = pages.bounds.unbind(1)
        guess = maxima * (scale * self.coded.scale.float()[:, None]) + bias
        groups = guess.topk(best, 1).indices
        positions = pages.positions(groups).flatten(1)  # (Q, best x group)
        members = products.gather(1, positions).view(len(products), best, -1)
        guess = members * (scale[groups] * self.coded.scale.float()[:, None])[..., None]
        guess += bias[groups][..., None]
        guess.masked_fill_(members == pages.lowest, -torch.inf)
        value, chosen = guess.flatten(1).topk(k, 1)
        rows = pages.rows(positions.gather(1, chosen))
        may = value > -torch.inf  # the others may be padding, which has no row
        each = torch.arange(len(products), device=products.device)[:, None]
        values, slack = sieve(pages, each.expand(-1, k)[may], rows[may])
        lower = value.new_full(value.shape, -torch.inf)
        lower[may] = values - slack
        self.candidates.raise_early(lower.amin(1))


def members_of(products: Tensor, layout: Layout) -> Tensor:
    """``products`` (Q, P) by tile, member and group of that tile."""
    return products.view(len(products), -1, layout.group, layout.tile_groups)


def maxima_of(products: Tensor, layout: Layout) -> Tensor:
    """(Q, G), in memory as ``products`` (Q, P) are."""
    members = members_of(products, layout)
    return torch.amax(members, 2, out=torch.empty_like(members[:, :, 0])).flatten(1)


class Pages:
    """Some pages of codes."""

    def __init__(self, codes: Codes, first_page: int, last_page: int) -> None:
        self.layout, self.channels = codes.layout, codes.channels
        self.first_row = codes.first_row
        self._rows_at = codes.rows_at
        self.first = first_page * codes.layout.span
        self.last = min(last_page * codes.layout.span, codes.count)
        self.held, self.lowest = codes.held, codes.held.lowest
        self.unmatchable = codes.unmatchable[self.first : last_page * codes.layout.span]
        groups = slice(first_page * codes.layout.groups, last_page * codes.layout.groups)
        self.bounds, self.norms = codes.bounds[groups], codes.norms

    def multiply(self, operand: Tensor, products: Tensor) -> Tensor:
        """Products of all codes with queries, maybe in ``products``."""
        stop = self.first + len(self.unmatchable)
        return self.held.multiply(operand, self.first, stop, products)

    def positions(self, groups: Tensor) -> Tensor:
        """(..., group) int64: where among these codes the members of ``groups`` (...) lie."""
        each, tile = self.layout.tile_groups, self.layout.tile
        member = torch.arange(0, tile, each, device=groups.device)
        return (groups // each * tile + groups % each)[..., None] + member

    def rows(self, positions: Tensor) -> Tensor:
        """Rows of codes, int64, that lie at ``positions`` among these."""
        return self._rows_at(self.first + positions)

    def rows_of_all(self) -> Tensor:
        """The row among all prototypes of each position; any row where there is none."""
        rows = self.rows(torch.arange(len(self.unmatchable), device=self.unmatchable.device))
        return rows.clamp_(max=self.last - 1) + self.first_row


class _Sieve:
    """Screened values of chosen pairs, in fp32, from the vectors themselves."""

    def __init__(self, block: QueryBlock, screen: FloatScreen) -> None:
        self.prototypes, self.screen = block.prototypes, screen
        self.device = block.queries.device

    def __call__(self, pages: Pages, queries: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Values (n,) and their slack, of pairs of a query and a row of codes.

        ``queries`` (n,) ascend.
        """
        metric, scale = self.screen.metric, self.screen.scale
        norms = pages.norms[rows] if scale == 1.0 else pages.norms[rows] * scale
        values = torch.empty_like(norms)
        direct = self._in_place(pages)
        step = len(queries) if direct is not None else max(1, _GATHER_ELEMENTS // pages.channels)
        for start in range(0, len(queries), max(step, 1)):
            part = slice(start, start + step)
            if direct is None:
                gathered, at = self._gathered(pages, rows[part])
            else:
                gathered, at = direct, rows[part] - pages.first
            values[part] = chosen_dots(self.screen.floats, gathered, queries[part], at)
        if scale != 1.0:
            values *= scale
        if metric == "cosine":
            values /= norms.clamp(min=COSINE_EPS)
        elif metric == "l2":
            values -= norms.square() * 0.5
        return values, self.screen.slack_of_pairs(queries, norms)

    def _in_place(self, pages: Pages) -> Tensor | None:
        """The rows as given, if they lie in one piece as products can read them."""
        first, last = (pages.first_row + row for row in (pages.first, pages.last))
        pieces = list(self.prototypes.pieces(first, last))
        piece = pieces[0]
        is_readable = piece.dtype == torch.float32 and piece.device == self.device
        return piece if len(pieces) == 1 and is_readable and piece.is_contiguous() else None

    def _gathered(self, pages: Pages, rows: Tensor) -> tuple[Tensor, Tensor]:
        """fp32 copies of the rows in question, each once, and where in them ``rows`` are."""
        needed, at = rows.unique(return_inverse=True)
        out = self.screen.floats.new_empty(len(needed), pages.channels)
        return self.prototypes.take(needed + pages.first_row, out), at
