"""Scans of a block of queries for all that reaches a score: by products in fp32, or of codes.

Where much does, no screen pays: every score of a chunk is evaluated, and the next chunk is not
screened at all, until less reaches the threshold again.
"""

import torch
from torch import Tensor

from ...codes.pages import Codes
from ...proofs import fp32
from .. import rescore
from ..float_scan import Chunk, FloatScan
from ..float_screen import FloatScreen
from ..int8_scan import Int8Scan
from .in_range import RangeBlock
from .pieces import true_entries

_DENSE_SHARE = 1 / 8
"""Of a block's pairs. A pair that is chosen takes 55 and 16 ns, of all pairs each 15 and 6 (512 and
128 channels, 256 queries, two threads of an AMD EPYC with AVX-512)."""

_FEW_PAIRS = 1 / 4
"""For each row: where there are fewer, they are gathered, and wait for more."""


class RangeScan(FloatScan):
    dense_share = _DENSE_SHARE
    block: RangeBlock

    def __init__(self, block: RangeBlock) -> None:
        super().__init__(block)
        self.is_dense = False
        """Whether much of the last chunk was scored."""
        self.share = 0.0
        """Of the pairs of the last chunk, what was found, or may have been."""

    def scan(self, rows: Tensor, first: int, mask: Tensor | None) -> None:
        chunk, screen = Chunk(rows, first, mask), self.block.screen
        if screen is None or self.is_dense or not self._scan_screened(chunk, screen):
            self._scan_all(chunk)

    def _scan_screened(self, chunk: Chunk, screen: FloatScreen) -> bool:
        candidates = self.block.candidates
        screened = self._screened(chunk, screen, len(chunk.rows))
        if screened is None:
            return False
        slack = screen.largest_slack(self.chunk_norms)
        least = fp32.lowered_to_fp32(candidates.threshold.double() - slack)
        reached = self.values >= least.masked_fill_(candidates.excluded, torch.inf)[:, None]
        counts = None
        if candidates.request.counts_only:  # most is certain, and need not be scored
            certain = self.values >= candidates.sure_beyond(slack)[:, None]
            counts, reached = certain.sum(1), reached.logical_xor_(certain)
        queries, columns = true_entries(reached)
        if len(queries) > self.dense_share * reached.numel():
            return False
        found = len(queries)
        if counts is not None:
            candidates.count(counts)
            found += int(counts.sum())
        self.share = found / reached.numel()
        if self.values.is_cpu and len(queries) > _FEW_PAIRS * len(chunk.rows):
            candidates.tighten(self.block.prototypes)  # so that indices ascend
            candidates.add_from(screened.rows, screened.first, queries, columns)
        else:
            candidates.wait(queries, columns + chunk.first)
            if candidates.crowded():
                candidates.tighten(self.block.prototypes)
        return True

    def _scan_all(self, chunk: Chunk) -> None:
        candidates, step, found = self.block.candidates, self.block.plan.whole_rows, 0
        candidates.tighten(self.block.prototypes)
        for start in range(0, len(chunk.rows), step):
            piece = self._cleaned(chunk.part(start, start + step))
            scores = rescore.dense(candidates.queries, piece.rows, candidates.metric)
            candidates.rescored += scores.numel()
            found += candidates.add_table(scores, piece.first, piece.mask)
        self.share = found / (len(self.block) * len(chunk.rows))
        self.is_dense = self.share > self.dense_share and not candidates.request.counts_only


class RangeInt8Scan(Int8Scan):
    """Codes are left alone where so much was found last that their scan would give up."""

    crowded_share = 1 / 100
    block: RangeBlock
    float_scan: RangeScan

    def scan_of_floats(self) -> RangeScan:
        return RangeScan(self.block)

    def scan(self, codes: Codes, first_page: int, last_page: int) -> None:
        # Their bounds leave more than there is.
        if self.float_scan.share > self.crowded_share / 2:
            self.scan_pages_in_float(codes, first_page, last_page)
        else:
            super().scan(codes, first_page, last_page)
