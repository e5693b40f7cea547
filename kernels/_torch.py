"""The torch body: any device torch has. Query block by query block, chunk by chunk of prototypes:

screen   scores in fp32 by matrix product, and the maximum of each group of prototypes
select   groups, then members, whose proven upper bound reaches the threshold
rescore  those in fp64; the k best keys so far raise the threshold

Everything whose bound reaches the threshold is rescored, so the result is proven as it stands and
no query needs repair. A chunk with too many survivors, or with numbers too large for fp32, is
scored exactly as a whole.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from . import _bounds, _exact, _order
from ._checks import refuse_nonfinite
from ._plan import Plan

_DENSE_SHARE = 0.25
"""Above this share of a block's pairs, gathering survivors costs more than scoring them all."""


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
    scores = torch.empty(len(queries), k, dtype=torch.float32, device=device)
    indices = torch.empty(len(queries), k, dtype=torch.int64, device=device)
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        for start in range(0, len(queries), plan.query_rows):
            part = slice(start, start + plan.query_rows)
            block = _Search(queries[part], start, k, metric, exclude, plan)
            for first, rows in _chunks(prototypes, plan.chunk_rows, device):
                block.scan(rows, first, _part_of(mask, part, first, len(rows)))
            scores[part], indices[part] = block.result()
    return scores, indices


def _chunks(
    prototypes: list[Tensor], chunk_rows: int, device: torch.device
) -> Iterator[tuple[int, Tensor]]:
    first = 0
    for tensor in prototypes:
        for rows in tensor.split(chunk_rows):
            if len(rows):
                yield first, rows.to(device, non_blocking=True)
            first += len(rows)


def _part_of(mask: Tensor | None, part: slice, first: int, count: int) -> Tensor | None:
    if mask is None:
        return None
    columns = mask[..., first : first + count]
    return columns[part] if mask.ndim == 2 else columns


class _Chunk(NamedTuple):
    rows: Tensor  # (P, C) as given; zero where excluded
    first: int  # index of the first row among all prototypes
    floats: Tensor  # (P, C) fp32
    norms: Tensor  # (P,) fp32, as rounded
    mask: Tensor | None  # (P,) or (Q, P), True = may match
    tame: bool  # no fp32 screen of it overflows


class _Search:
    """One block of queries on its way through the prototypes."""

    def __init__(
        self, queries: Tensor, first: int, k: int, metric: str, exclude: bool, plan: Plan
    ) -> None:
        self.k, self.metric, self.exclude, self.plan = k, metric, exclude, plan
        self.channels = queries.shape[1]
        self._prepare_queries(queries, first)
        self.keys = queries.new_full((len(queries), k), _order.EMPTY, dtype=torch.int64)
        self.full = False  # every query has k keys
        self.threshold = torch.full_like(self.norms, -torch.inf, dtype=torch.float32)
        self.pending = _Pending(len(queries))
        self.seen, self.next_merge = 0, 0
        self.buffer: Tensor | None = None

    def _prepare_queries(self, queries: Tensor, first: int) -> None:
        self.norms = _exact.norms(queries)
        self.excluded = ~self.norms.isfinite()
        if self.excluded.any():
            if not self.exclude:
                refuse_nonfinite("queries", self.excluded, first)
            queries = queries.masked_fill(self.excluded[:, None], 0)
            self.norms = self.norms.masked_fill(self.excluded, 0)
        self.rows = queries
        self.tame = self.metric == "cosine" or bool(
            self.norms.max() <= _bounds.LARGEST_TAME_NORM
        )
        if self.plan.screened and self.tame:
            self.slack = _bounds.fp32_slack(
                self.metric, self.channels, _bounds.operand_roundoff(queries.device)
            )
            self.floats, self.norm_bounds = queries.float(), self.norms.float()[:, None] * 1.0001
            if self.metric == "cosine":
                scale = self.norms.clamp(min=_bounds.COSINE_EPS)[:, None]
                self.floats = (queries.double() / scale).float()
                self.norm_bounds = torch.ones_like(self.norm_bounds)

    def scan(self, rows: Tensor, first: int, mask: Tensor | None) -> None:
        """Bring in the prototypes ``rows``, numbered from ``first``."""
        chunk = self._prepare(rows, first, mask)
        if not (self.plan.screened and self.tame and chunk.tame and self._scan_screened(chunk)):
            self.pending.add_block(self._keys_of_all(chunk))
        self.seen += len(rows)
        if self.pending.size > max(4 * self.k, self.plan.chunk_rows) or (
            self.plan.screened and self.seen >= self.next_merge
        ):
            self._merge()
            self.next_merge = 2 * self.seen

    def result(self) -> tuple[Tensor, Tensor]:
        self._merge()
        self.keys[self.excluded] = _order.EMPTY
        return _order.unpack(self.keys)

    def _prepare(self, rows: Tensor, first: int, mask: Tensor | None) -> _Chunk:
        floats = rows.float()
        norms = torch.linalg.vector_norm(floats, dim=1)
        tame = bool(norms.max() <= _bounds.LARGEST_TAME_NORM)
        if not tame:
            bad = ~_exact.norms(rows).isfinite()
            if bad.any():
                if not self.exclude:
                    refuse_nonfinite("prototypes", bad, first)
                mask = ~bad if mask is None else mask & ~bad
                return self._prepare(rows.masked_fill(bad[:, None], 0), first, mask)
        return _Chunk(rows, first, floats, norms, mask, tame)

    def _keys_of_all(self, chunk: _Chunk) -> Tensor:
        scores = _exact.dense(self.rows, chunk.rows, self.metric)
        indices = torch.arange(
            chunk.first, chunk.first + len(chunk.rows), device=scores.device
        )
        keys = _order.pack(scores, indices)
        return keys if chunk.mask is None else keys.masked_fill_(~chunk.mask, _order.EMPTY)

    def _scan_screened(self, chunk: _Chunk) -> bool:
        """Rescore the survivors of the chunk; False if they are too many."""
        values, groups = self._screen(chunk)
        queries, columns = self._select(values, groups, chunk)
        if len(columns) > _DENSE_SHARE * values.numel():
            return False
        scores = _exact.pairs(self.rows, chunk.rows, queries, columns, self.metric)
        self.pending.add_pairs(queries, _order.pack(scores, columns + chunk.first))
        return True

    def _screen(self, chunk: _Chunk) -> tuple[Tensor, int]:
        """Screened scores (Q, G * groups), -inf where masked or padded, and the number of groups.

        Group g holds columns g, g + groups, g + 2 groups, ...: its maximum is taken across
        contiguous rows.
        """
        count = len(chunk.rows)
        groups = -(-count // self.plan.group)
        values = self._values(groups * self.plan.group)
        values[:, count:] = -torch.inf
        out, floats = values[:, :count], chunk.floats
        if self.metric == "l2":
            torch.addmm(chunk.norms.square() * -0.5, self.floats, floats.T, out=out)
        else:
            norms = chunk.norms.clamp(min=_bounds.COSINE_EPS)
            many = 4 * len(values) >= self.channels  # then scaling rows is less than scaling scores
            if self.metric == "cosine" and many:
                floats = floats / norms[:, None]
            torch.mm(self.floats, floats.T, out=out)
            if self.metric == "cosine" and not many:
                out /= norms
        if chunk.mask is not None:
            out.masked_fill_(~chunk.mask, -torch.inf)
        return values, groups

    def _values(self, width: int) -> Tensor:
        if self.buffer is None or self.buffer.shape[1] != width:
            self.buffer = self.floats.new_empty(len(self.floats), width)
        return self.buffer

    def _select(self, values: Tensor, groups: int, chunk: _Chunk) -> tuple[Tensor, Tensor]:
        """The pairs (query, column) whose upper bound reaches the threshold, sorted by query."""
        members = values.view(len(values), -1, groups)
        maxima = members.amax(1) if members.shape[1] > 1 else values
        slack = self._slack(chunk, groups)
        if not self.full and groups >= self.k:
            kth = (maxima - slack).topk(self.k).values[:, -1]
            early = _bounds.early_threshold(kth, self.norms, self.metric)
            self.threshold = torch.maximum(self.threshold, early)
        hit = maxima + slack >= self.threshold[:, None]
        queries, group = hit.nonzero(as_tuple=True)
        if members.shape[1] == 1:
            return queries, group
        reach = members[queries, :, group] + slack.expand_as(maxima)[queries, group, None]
        pair, member = (reach >= self.threshold[queries, None]).nonzero(as_tuple=True)
        return queries[pair], member * groups + group[pair]

    def _slack(self, chunk: _Chunk, groups: int) -> Tensor:
        """(Q, groups) or (1, 1): how far a group's maximum may lie below its best exact score."""
        if self.metric == "cosine":
            return self.slack.of(self.norm_bounds[:1], self.norm_bounds[:1])
        bounds = _bounds.norm_bound(chunk.norms, self.channels)
        bounds = torch.nn.functional.pad(bounds, (0, groups * self.plan.group - len(bounds)))
        return self.slack.of(self.norm_bounds, bounds.view(-1, groups).amax(0, keepdim=True))

    def _merge(self) -> None:
        for keys in self.pending.take():
            merged = torch.cat([self.keys, keys], 1)
            self.keys = merged.topk(self.k, sorted=True).values
        if self.plan.screened and self.tame:
            last = self.keys[:, -1]
            self.full = bool((last != _order.EMPTY).all())
            kth = _order.scores_of(last)
            rising = _bounds.threshold(kth, self.norms, self.channels, self.metric)
            self.threshold = torch.maximum(self.threshold, rising)


class _Pending:
    """Keys that wait to be merged, as whole blocks or as (query, key) pairs."""

    def __init__(self, queries: int) -> None:
        self.queries = queries
        self.blocks: list[Tensor] = []
        self.pairs: list[tuple[Tensor, Tensor]] = []
        self.size = 0  # keys per query, on average

    def add_block(self, keys: Tensor) -> None:
        self.blocks.append(keys)
        self.size += keys.shape[1]

    def add_pairs(self, queries: Tensor, keys: Tensor) -> None:
        if len(keys):
            self.pairs.append((queries, keys))
            self.size += len(keys) / self.queries

    def take(self) -> Iterator[Tensor]:
        """Blocks (Q, n) of the keys that waited, EMPTY where a query has fewer than another."""
        blocks, pairs = self.blocks, self.pairs
        self.blocks, self.pairs, self.size = [], [], 0
        if blocks:
            yield torch.cat(blocks, 1)
        if pairs:
            yield from self._blocks_of(*map(torch.cat, zip(*pairs, strict=True)))

    def _blocks_of(self, queries: Tensor, keys: Tensor) -> Iterator[Tensor]:
        queries, order = queries.sort(stable=True)
        keys = keys[order]
        counts = torch.bincount(queries, minlength=self.queries)
        rank = torch.arange(len(keys), device=keys.device) - (counts.cumsum(0) - counts)[queries]
        # One query may have far more than the others; a width of twice the mean, and then more.
        width = max(64, 2 * len(keys) // self.queries)
        for start in range(0, int(counts.max()), width):
            block = keys.new_full((self.queries, width), _order.EMPTY)
            here = (rank >= start) & (rank < start + width)
            block[queries[here], rank[here] - start] = keys[here]
            yield block
