"""The torch body: any device torch has. Query block by query block, chunk by chunk of prototypes:

screen   scores in fp32 by matrix product, and the maximum of each group of prototypes
select   groups, then members, whose proven upper bound reaches the threshold
rescore  what is left in the end, in fp64 (torch_backend/candidates.py, torch_backend/rescore.py)

Everything whose bound reaches the threshold stays a candidate, so the result is proven as it stands
and no query needs repair. A chunk with too many survivors, or with numbers too large for fp32, is
scored exactly as a whole.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..contract import finite, order
from ..contract.chunks import Rows
from ..contract.finite import refuse_nonfinite
from ..proofs import fp32
from . import rescore
from .candidates import Candidates
from .float_screen import screen_for
from .plan import Plan

_DENSE_SHARE = 0.25
"""Above this share of a block's pairs, scoring all of them costs less than gathering survivors."""


def search(
    queries: Tensor,
    prototypes: list[Tensor],
    k: int,
    metric: str,
    mask: Tensor | None,
    exclude: bool,
    plan: Plan,
) -> tuple[Tensor, Tensor]:
    """Scores (Q, k) fp32 and indices (Q, k) int64. The door has checked the arguments; k >= 1."""
    device = queries.device
    rows_of_all = Rows(prototypes)
    scores = torch.empty(len(queries), k, dtype=torch.float32, device=device)
    indices = torch.empty(len(queries), k, dtype=torch.int64, device=device)
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        for start in range(0, len(queries), plan.query_rows):
            part = slice(start, start + plan.query_rows)
            block = Block(queries[part], start, rows_of_all, k, metric, exclude, plan)
            for first, rows in _chunks(prototypes, plan.chunk_rows, device):
                block.scan(rows, first, _part_of(mask, part, first, len(rows)))
            scores[part], indices[part] = block.result()
    return scores, indices


def _chunks(
    prototypes: list[Tensor], chunk_rows: int, device: torch.device
) -> Iterator[tuple[int, Tensor]]:
    """First row and rows of each pass over the prototypes; small tensors go through together."""
    first, count = 0, 0
    waiting: list[Tensor] = []
    for tensor in prototypes:
        for rows in tensor.split(chunk_rows):
            if count and count + len(rows) > chunk_rows:
                yield first, _as_one(waiting)
                first, count, waiting = first + count, 0, []
            if len(rows):
                waiting.append(rows.to(device, non_blocking=True))
                count += len(rows)
    if count:
        yield first, _as_one(waiting)


def _as_one(chunks: list[Tensor]) -> Tensor:
    """Joined in a dtype that holds them all exactly."""
    return chunks[0] if len(chunks) == 1 else torch.cat(chunks)


def _part_of(mask: Tensor | None, part: slice, first: int, count: int) -> Tensor | None:
    if mask is None:
        return None
    columns = mask[..., first : first + count]
    return columns[part] if mask.ndim == 2 else columns


class _Chunk(NamedTuple):
    rows: Tensor  # (P, C) as given; zero where excluded
    first: int  # index of the first row among all prototypes
    mask: Tensor | None  # (P,) or (Q, P), True = may match

    def part(self, start: int, stop: int) -> "_Chunk":
        mask = None if self.mask is None else self.mask[..., start:stop]
        return _Chunk(self.rows[start:stop], self.first + start, mask)


class Block:
    """One block of queries on its way through the prototypes, in the order of their indices."""

    def __init__(
        self,
        queries: Tensor,
        first: int,
        prototypes: Rows,
        k: int,
        metric: str,
        exclude: bool,
        plan: Plan,
    ) -> None:
        self.prototypes, self.k, self.metric = prototypes, k, metric
        self.exclude, self.plan = exclude, plan
        norms = finite.norms(queries)
        self.excluded = ~norms.isfinite()
        if self.excluded.any():
            if not exclude:
                refuse_nonfinite("queries", self.excluded, first)
            queries = queries.masked_fill(self.excluded[:, None], 0)
            norms = norms.masked_fill(self.excluded, 0)
        self.rows, self.norms = queries, norms
        self.candidates = Candidates(queries, k, metric)
        self.screened = plan.screened
        if self.screened:
            self.screen = screen_for(queries, norms, prototypes, metric)
            self.screened = self.screen.works
            self.candidates.lengths, self.candidates.units = self.screen.lengths, self.screen.units
            self.values = queries.new_empty(len(queries), 0, dtype=torch.float32)
            self.chunk_norms = self.values.new_empty(0)
        # An excluded query is zero by now and would tie with everything, for nothing.
        self.candidates.threshold.masked_fill_(self.excluded, torch.inf)
        self.seen, self.next_tightening, self.total = 0, 0, len(prototypes)
        self.waiting: list[Tensor] = []  # key blocks of chunks scored as a whole

    def scan(self, rows: Tensor, first: int, mask: Tensor | None) -> None:
        """Bring in the prototypes ``rows`` (P, C), numbered from ``first``."""
        chunk = _Chunk(rows, first, mask)
        if not self.screened:
            self._scan_whole(chunk)
        elif not self._scan_screened(chunk):
            # The scores of some may exclude all others: those that tie at inf, say, or at 0.
            head = min(len(rows), max(8 * self.k, len(rows) // 16))
            self._scan_whole(chunk.part(0, head))
            rest = chunk.part(head, len(rows))
            if len(rest.rows) and not self._scan_screened(rest):
                self._scan_whole(rest)
        self.seen += len(rows)

    def result(self) -> tuple[Tensor, Tensor]:
        """Scores and indices (Q, k)."""
        self._merge_waiting()
        keys = self.candidates.result(self.prototypes)
        keys[self.excluded] = order.EMPTY
        return order.unpack(keys)

    def _scan_screened(self, chunk: _Chunk, normalise: bool = False) -> bool:
        """Add the chunk's survivors to the candidates; False if it has to be scored as a whole."""
        groups = -(-len(chunk.rows) // self.plan.group)
        self._screen(chunk, groups * self.plan.group, normalise)
        if not bool(self.chunk_norms.max() <= fp32.LARGEST_TAME_NORM):
            cleaned = self._cleaned(chunk)
            if cleaned is not chunk:
                return self._scan_screened(cleaned)
            normalised = normalise or self.screen.normalises or self.metric != "cosine"
            return not normalised and self._scan_screened(chunk, normalise=True)
        if chunk.mask is not None:
            self.values[:, : len(chunk.rows)].masked_fill_(~chunk.mask, -torch.inf)
        selected = self._select(groups)
        if selected is None:
            return False
        queries, columns, slack = selected
        values = self.values[queries, columns]
        self.candidates.add(queries, columns + chunk.first, values - slack, values + slack)
        seen = self.seen + len(chunk.rows)
        is_due = self.next_tightening <= seen < self.total  # the result tightens by itself
        if is_due or self.candidates.crowded():
            self.candidates.tighten(self.prototypes)
            self.next_tightening = 2 * seen
        return True

    def _screen(self, chunk: _Chunk, width: int, normalise: bool) -> None:
        """Fill ``values`` (Q, width) with screened scores, -inf where padded, and ``chunk_norms``.

        Tile by tile of prototypes: the pass that takes the norms leaves a tile in cache for the
        product.
        """
        count, tile = len(chunk.rows), self.plan.tile_rows
        if self.values.shape[1] != width:
            self.values = self.values.new_empty(len(self.rows), width)
        if len(self.chunk_norms) != count:
            self.chunk_norms = self.values.new_empty(count)
        self.values[:, count:] = -torch.inf
        for start in range(0, count, tile):
            part = slice(start, min(start + tile, count))
            norms, out = self.chunk_norms[part], self.values[:, part]
            self.screen.multiply(chunk.rows[part], norms, out, normalise)

    def _select(self, groups: int) -> tuple[Tensor, Tensor, Tensor] | None:
        """Queries, columns and slack (n,) of the values whose upper bound reaches the threshold.

        None where they are too many. Group g holds columns g, g + groups, g + 2 groups, ...: its
        maximum is taken across contiguous rows.
        """
        members = self.values.view(len(self.values), -1, groups)
        maxima = members.amax(1) if members.shape[1] > 1 else self.values
        slack = self.screen.slack_of_groups(self.chunk_norms, groups)
        if not self.candidates.full and groups >= self.k:
            self.candidates.raise_early((maxima - slack).topk(self.k).values[:, -1])
        threshold, most = self.candidates.least(), _DENSE_SHARE * self.values.numel()
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

    def _scan_whole(self, chunk: _Chunk) -> None:
        for start in range(0, len(chunk.rows), self.plan.whole_rows):
            piece = self._cleaned(chunk.part(start, start + self.plan.whole_rows))
            self.waiting.append(self._keys_of_all(piece))
            if sum(keys.shape[1] for keys in self.waiting) >= 2 * self.k:
                self._merge_waiting()
        if self.screened:
            self._merge_waiting()

    def _keys_of_all(self, chunk: _Chunk) -> Tensor:
        scores = rescore.dense(self.rows, chunk.rows, self.metric)
        last = chunk.first + len(chunk.rows)
        keys = order.pack(scores, torch.arange(chunk.first, last, device=scores.device))
        return keys if chunk.mask is None else keys.masked_fill_(~chunk.mask, order.EMPTY)

    def _merge_waiting(self) -> None:
        if self.waiting:
            self.candidates.add_keys(torch.cat(self.waiting, 1))
            self.waiting = []

    def _cleaned(self, chunk: _Chunk) -> _Chunk:
        """The chunk without its non-finite rows: zero, and masked; or refused."""
        bad = ~finite.norms(chunk.rows).isfinite()
        if not bad.any():
            return chunk
        if not self.exclude:
            refuse_nonfinite("prototypes", bad, chunk.first)
        mask = ~bad if chunk.mask is None else chunk.mask & ~bad
        return _Chunk(chunk.rows.masked_fill(bad[:, None], 0), chunk.first, mask)
