"""The torch body: any device torch has. Query block by query block, chunk by chunk of prototypes:

screen   scores in fp32 by matrix product, and the maximum of each group of prototypes
select   groups, then members, whose proven upper bound reaches the threshold
rescore  what is left in the end, in fp64 (_candidates.py, _exact.py)

Everything whose bound reaches the threshold stays a candidate, so the result is proven as it stands
and no query needs repair. A chunk with too many survivors, or with numbers too large for fp32, is
scored exactly as a whole.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from . import _bounds, _exact, _order
from ._candidates import Candidates
from ._checks import refuse_nonfinite
from ._plan import Plan
from ._rows import Rows

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


class Block:
    """One block of queries on its way through the prototypes."""

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
        self.exclude, self.plan, self.channels = exclude, plan, queries.shape[1]
        norms = _exact.norms(queries)
        self.excluded = ~norms.isfinite()
        if self.excluded.any():
            if not exclude:
                refuse_nonfinite("queries", self.excluded, first)
            queries = queries.masked_fill(self.excluded[:, None], 0)
            norms = norms.masked_fill(self.excluded, 0)
        self.rows, self.norms = queries, norms
        self.roundoff = _bounds.operand_roundoff(queries.device)
        self.screened = (
            plan.screened
            and self.roundoff < math.inf
            and (metric == "cosine" or bool(norms.max() <= _bounds.LARGEST_TAME_NORM))
        )
        if self.screened:
            self._prepare_screen(norms)
        self.candidates = Candidates(queries, norms, k, metric)
        # An excluded query is zero by now and would tie with everything, for nothing.
        self.candidates.threshold.masked_fill_(self.excluded, torch.inf)
        self.seen, self.next_tightening, self.total = 0, 0, len(prototypes)
        self.waiting: list[Tensor] = []  # key blocks of chunks scored as a whole

    def _prepare_screen(self, norms: Tensor) -> None:
        self.floats, self.norm_bounds = self.rows.float(), (norms.float() * 1.0001)[:, None]
        if self.metric == "cosine":
            scale = norms.clamp(min=_bounds.COSINE_EPS)[:, None]
            self.floats = (self.rows.double() / scale).float()
            self.norm_bounds = torch.ones_like(self.norm_bounds)
        self.slack = _bounds.fp32_slack(self.metric, self.channels, self.roundoff)
        self.values = self.floats.new_empty(len(self.rows), 0)
        self.chunk_norms = self.floats.new_empty(0)

    def scan(self, rows: Tensor, first: int, mask: Tensor | None) -> None:
        """Bring in the prototypes ``rows`` (P, C), numbered from ``first``."""
        self.seen += len(rows)
        chunk = _Chunk(rows, first, mask)
        if not (self.screened and self._scan_screened(chunk)):
            self._scan_whole(chunk)

    def result(self) -> tuple[Tensor, Tensor]:
        """Scores and indices (Q, k)."""
        self._merge_waiting()
        keys = self.candidates.result(self.prototypes)
        keys[self.excluded] = _order.EMPTY
        return _order.unpack(keys)

    def _scan_screened(self, chunk: _Chunk) -> bool:
        """Add the chunk's survivors to the candidates; False if it has to be scored as a whole."""
        groups = -(-len(chunk.rows) // self.plan.group)
        self._screen(chunk, groups * self.plan.group)
        if not bool(self.chunk_norms.max() <= _bounds.LARGEST_TAME_NORM):
            cleaned = self._cleaned(chunk)
            return cleaned is not chunk and self._scan_screened(cleaned)
        if chunk.mask is not None:
            self.values[:, : len(chunk.rows)].masked_fill_(~chunk.mask, -torch.inf)
        queries, columns, slack = self._select(groups)
        if len(columns) > _DENSE_SHARE * self.values.numel():
            return False
        values = self.values[queries, columns]
        self.candidates.add(queries, columns + chunk.first, values - slack, values + slack)
        is_due = self.next_tightening <= self.seen < self.total  # the result tightens by itself
        if is_due or self.candidates.crowded():
            self.candidates.tighten(self.prototypes)
            self.next_tightening = 2 * self.seen
        return True

    def _screen(self, chunk: _Chunk, width: int) -> None:
        """Fill ``values`` (Q, width) with screened scores, -inf where padded, and ``chunk_norms``.

        Tile by tile of prototypes: the pass that takes the norms leaves a tile in cache for the
        product.
        """
        count = len(chunk.rows)
        if self.values.shape[1] != width:
            self.values = self.floats.new_empty(len(self.rows), width)
        if len(self.chunk_norms) != count:
            self.chunk_norms = self.floats.new_empty(count)
        self.values[:, count:] = -torch.inf
        tile = self.plan.tile_rows
        for start in range(0, count, tile):
            part = slice(start, min(start + tile, count))
            floats, norms = chunk.rows[part].float(), self.chunk_norms[part]
            torch.linalg.vector_norm(floats, dim=1, out=norms)
            out = self.values[:, part]
            if self.metric == "l2":
                torch.addmm(norms.square() * -0.5, self.floats, floats.T, out=out)
            else:
                torch.mm(self.floats, floats.T, out=out)
            if self.metric == "cosine":
                out /= norms.clamp(min=_bounds.COSINE_EPS)

    def _select(self, groups: int) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, columns and slack (n,) of the values whose upper bound reaches the threshold.

        Group g holds columns g, g + groups, g + 2 groups, ...: its maximum is taken across
        contiguous rows.
        """
        members = self.values.view(len(self.values), -1, groups)
        maxima = members.amax(1) if members.shape[1] > 1 else self.values
        slack = self._group_slack(groups)
        if not self.candidates.full and groups >= self.k:
            self.candidates.raise_early((maxima - slack).topk(self.k).values[:, -1])
        threshold = self.candidates.threshold
        slack = slack.expand_as(maxima)
        queries, group = (maxima + slack >= threshold[:, None]).nonzero(as_tuple=True)
        slack = slack[queries, group]
        if members.shape[1] == 1:
            return queries, group, slack
        reach = members[queries, :, group] + slack[:, None]
        pair, member = (reach >= threshold[queries, None]).nonzero(as_tuple=True)
        return queries[pair], member * groups + group[pair], slack[pair]

    def _group_slack(self, groups: int) -> Tensor:
        """(Q, groups) or (1, 1): how far a screened value may be from the exact one."""
        if self.metric == "cosine":
            return self.slack.of(self.norm_bounds[:1], self.norm_bounds[:1])
        bounds = _bounds.norm_bound(self.chunk_norms, self.channels)
        bounds = torch.nn.functional.pad(bounds, (0, groups * self.plan.group - len(bounds)))
        return self.slack.of(self.norm_bounds, bounds.view(-1, groups).amax(0, keepdim=True))

    def _scan_whole(self, chunk: _Chunk) -> None:
        for start in range(0, len(chunk.rows), self.plan.whole_rows):
            part = slice(start, start + self.plan.whole_rows)
            mask = None if chunk.mask is None else chunk.mask[..., part]
            piece = self._cleaned(_Chunk(chunk.rows[part], chunk.first + start, mask))
            self.waiting.append(self._keys_of_all(piece))
            if sum(keys.shape[1] for keys in self.waiting) >= 2 * self.k:
                self._merge_waiting()
        if self.screened:
            self._merge_waiting()

    def _keys_of_all(self, chunk: _Chunk) -> Tensor:
        scores = _exact.dense(self.rows, chunk.rows, self.metric)
        last = chunk.first + len(chunk.rows)
        keys = _order.pack(scores, torch.arange(chunk.first, last, device=scores.device))
        return keys if chunk.mask is None else keys.masked_fill_(~chunk.mask, _order.EMPTY)

    def _merge_waiting(self) -> None:
        if self.waiting:
            self.candidates.add_keys(torch.cat(self.waiting, 1))
            self.waiting = []

    def _cleaned(self, chunk: _Chunk) -> _Chunk:
        """The chunk without its non-finite rows: zero, and masked; or refused."""
        bad = ~_exact.norms(chunk.rows).isfinite()
        if not bad.any():
            return chunk
        if not self.exclude:
            refuse_nonfinite("prototypes", bad, chunk.first)
        mask = ~bad if chunk.mask is None else chunk.mask & ~bad
        return _Chunk(chunk.rows.masked_fill(bad[:, None], 0), chunk.first, mask)
