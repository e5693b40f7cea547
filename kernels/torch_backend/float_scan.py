"""The float scan of a block of queries: prototypes come in, and few of them become candidates.

screen   scores in fp32 by matrix product, and the maximum of each group of prototypes
select   groups, then members, whose proven upper bound reaches the threshold
rescore  what is left in the end, in fp64 (candidates.py, rescore.py)

Everything whose bound reaches the threshold stays a candidate, so the result is proven as it stands
and no query needs repair. A chunk with too many survivors, or with numbers too large for fp32, is
scored exactly as a whole.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..contract import order
from ..contract.finite import norms, refuse_nonfinite
from ..proofs import fp32
from . import rescore
from .float_screen import FloatScreen
from .query_block import QueryBlock


class Chunk(NamedTuple):
    rows: Tensor  # (P, C) as given; zero where excluded
    first: int  # index of the first row among all prototypes
    mask: Tensor | None  # (P,) or (Q, P), True = may match

    def part(self, start: int, stop: int) -> "Chunk":
        mask = None if self.mask is None else self.mask[..., start:stop]
        return Chunk(self.rows[start:stop], self.first + start, mask)


class FloatScan:
    """Prototypes on their way past a block of queries: what may be among its best stays behind."""

    dense_share = 0.25
    """Of a block's pairs: where more survive, scoring all of them costs less than gathering."""

    def __init__(self, block: QueryBlock) -> None:
        self.block, self.candidates = block, block.candidates
        self.values = block.queries.new_empty(len(block), 0, dtype=torch.float32)
        self.chunk_norms = self.values.new_empty(0)
        self.seen, self.next_tightening = 0, 0
        self.waiting: list[Tensor] = []  # key blocks of chunks scored as a whole

    def scan(self, rows: Tensor, first: int, mask: Tensor | None) -> None:
        """Bring in the prototypes ``rows`` (P, C), numbered from ``first``."""
        chunk, screen = Chunk(rows, first, mask), self.block.screen
        if screen is None:
            self._scan_whole(chunk)
        elif not self._scan_screened(chunk, screen):
            # The scores of some may exclude all others: those that tie at inf, say, or at 0.
            head = min(len(rows), max(8 * self.candidates.k, len(rows) // 16))
            self._scan_whole(chunk.part(0, head))
            self._merge_waiting()
            rest = chunk.part(head, len(rows))
            if len(rest.rows) and not self._scan_screened(rest, screen):
                self._scan_whole(rest)
            self._merge_waiting()
        self.seen += len(rows)

    def result(self) -> tuple[Tensor, Tensor]:
        """Scores and indices (Q, k)."""
        self._merge_waiting()
        return self.block.result()

    def _scan_screened(self, chunk: Chunk, screen: FloatScreen) -> bool:
        """Add the chunk's survivors to the candidates; False if it has to be scored as a whole."""
        groups = -(-len(chunk.rows) // self.block.plan.group)
        screened = self._screened(chunk, screen, groups * self.block.plan.group)
        selected = None if screened is None else self._select(screen, groups)
        if selected is None:
            return False
        queries, columns, slack = selected
        values = self.values[queries, columns]
        self.candidates.add(queries, columns + chunk.first, values - slack, values + slack)
        seen = self.seen + len(chunk.rows)
        is_last = seen == len(self.block.prototypes)  # the result tightens by itself
        is_due = self.next_tightening <= seen and not is_last
        if is_due or self.candidates.crowded():
            self.candidates.tighten(self.block.prototypes)
            self.next_tightening = 2 * seen
        return True

    def _screened(
        self, chunk: Chunk, screen: FloatScreen, width: int, normalise: bool = False
    ) -> Chunk | None:
        """Fill ``values`` (Q, width); what was screened, or None where fp32 cannot hold it."""
        self._screen(chunk, screen, width, normalise)
        if not bool(self.chunk_norms.max() <= fp32.LARGEST_NORM):
            cleaned = self._cleaned(chunk)
            if cleaned is not chunk:
                return self._screened(cleaned, screen, width)
            normalised = normalise or screen.normalises or self.candidates.metric != "cosine"
            return None if normalised else self._screened(chunk, screen, width, normalise=True)
        if chunk.mask is not None:
            self.values[:, : len(chunk.rows)].masked_fill_(~chunk.mask, -torch.inf)
        return chunk

    def _screen(self, chunk: Chunk, screen: FloatScreen, width: int, normalise: bool) -> None:
        """Fill ``values`` (Q, width) with screened scores, -inf where padded, and ``chunk_norms``.

        Tile by tile of prototypes: the pass that takes the norms leaves a tile in cache for the
        product.
        """
        count, tile = len(chunk.rows), self.block.plan.tile_rows
        if self.values.shape[1] != width:
            self.values = self.values.new_empty(len(self.block), width)
        if len(self.chunk_norms) != count:
            self.chunk_norms = self.values.new_empty(count)
        self.values[:, count:] = -torch.inf
        for start in range(0, count, tile):
            part = slice(start, min(start + tile, count))
            out = self.values[:, part]
            screen.multiply(chunk.rows[part], self.chunk_norms[part], out, normalise)

    def _select(self, screen: FloatScreen, groups: int) -> tuple[Tensor, Tensor, Tensor] | None:
        """Queries, columns and slack (n,) of the values whose upper bound reaches the threshold.

        None where they are too many. Group g holds columns g, g + groups, g + 2 groups, ...: its
        maximum is taken across contiguous rows.
        """
        members = self.values.view(len(self.values), -1, groups)
        maxima = members.amax(1) if members.shape[1] > 1 else self.values
        slack = screen.slack_of_groups(self.chunk_norms, groups)
        if not self.candidates.full and groups >= self.candidates.k:
            self.candidates.raise_early((maxima - slack).topk(self.candidates.k).values[:, -1])
        threshold, most = self.candidates.least(), self.dense_share * self.values.numel()
        reached = maxima + slack >= threshold[:, None]
        if members.shape[1] == 1 and int(reached.sum()) > most:
            return None
        queries, group = reached.nonzero(as_tuple=True)
        slack = slack.expand_as(maxima)[queries, group]
        if members.shape[1] == 1:
            return queries, group, slack
        reached = members[queries, :, group] + slack[:, None] >= threshold[queries, None]
        if len(queries) * members.shape[1] > most and int(reached.sum()) > most:
            return None
        pair, member = reached.nonzero(as_tuple=True)
        return queries[pair], member * groups + group[pair], slack[pair]

    def _scan_whole(self, chunk: Chunk) -> None:
        for start in range(0, len(chunk.rows), self.block.plan.whole_rows):
            piece = self._cleaned(chunk.part(start, start + self.block.plan.whole_rows))
            self.waiting.append(self._keys_of_all(piece))
            if sum(keys.shape[1] for keys in self.waiting) >= 2 * self.candidates.k:
                self._merge_waiting()

    def _keys_of_all(self, chunk: Chunk) -> Tensor:
        scores = rescore.dense(self.block.queries, chunk.rows, self.candidates.metric)
        last = chunk.first + len(chunk.rows)
        keys = order.pack(scores, torch.arange(chunk.first, last, device=scores.device))
        return keys if chunk.mask is None else keys.masked_fill_(~chunk.mask, order.EMPTY)

    def _merge_waiting(self) -> None:
        if self.waiting:
            self.candidates.add_keys(torch.cat(self.waiting, 1))
            self.waiting = []

    def _cleaned(self, chunk: Chunk) -> Chunk:
        """The chunk without its non-finite rows: zero, and masked; or refused."""
        bad = ~norms(chunk.rows).isfinite()
        if not bad.any():
            return chunk
        if not self.block.request.exclude:
            refuse_nonfinite("prototypes", bad, chunk.first)
        mask = ~bad if chunk.mask is None else chunk.mask & ~bad
        return Chunk(chunk.rows.masked_fill(bad[:, None], 0), chunk.first, mask)
