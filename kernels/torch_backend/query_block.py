"""A block of queries: made finite, with its candidates and the screen that measures them."""

import torch
from torch import Tensor

from ..contract import order
from ..contract.chunks import Rows
from ..contract.finite import norms, refuse_nonfinite
from ..contract.request import Request
from .candidates import Candidates
from .float_screen import screen_for
from .plan import Plan


class QueryBlock:
    """Queries on their way through the prototypes, which come in the order of their indices."""

    def __init__(
        self, queries: Tensor, first: int, prototypes: Rows, request: Request, plan: Plan
    ) -> None:
        """``queries`` (Q, C) as given, numbered from ``first``; ``prototypes``: all of them."""
        self.prototypes, self.request, self.plan = prototypes, request, plan
        lengths = norms(queries)
        self.excluded = ~lengths.isfinite()
        if self.excluded.any():
            if not request.exclude:
                refuse_nonfinite("queries", self.excluded, first)
            queries = queries.masked_fill(self.excluded[:, None], 0)
            lengths = lengths.masked_fill(self.excluded, 0)
        self.queries, self.norms = queries, lengths
        self.candidates = self.no_candidates()
        # An excluded query is zero by now and would tie with everything, for nothing.
        self.candidates.threshold.masked_fill_(self.excluded, torch.inf)
        screen = screen_for(queries, lengths, prototypes, request.metric) if plan.screened else None
        self.screen = screen if screen is not None and screen.works else None
        """None where every score is evaluated exactly."""
        if self.screen is not None:
            self.candidates.measured_by(self.screen)

    def no_candidates(self) -> Candidates:
        """Of these queries, before any prototypes."""
        return Candidates(self.queries, self.request.k, self.request.metric)

    def __len__(self) -> int:
        return len(self.queries)

    def result(self) -> tuple[Tensor, Tensor]:
        """Scores and indices (Q, k)."""
        keys = self.candidates.result(self.prototypes)
        keys[self.excluded] = order.EMPTY
        return order.unpack(keys)
