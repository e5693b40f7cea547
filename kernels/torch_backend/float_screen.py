"""The fp32 screen of one block of queries: what is multiplied, in which units, and how exactly.

Products of long vectors overflow in fp32, those of short ones underflow, and rankings of either are
as good as any. So a screen has units, powers of two, in which typical vectors are of length 1 or
so: one for the prototypes, and one for each query; l2 takes differences, and has one for both.
Vectors that cosine clamps, shorter than 1e-8, are normalised in fp64 first, and then scaled.
"""

import math

import torch
from torch import Tensor

from ..contract import finite, metrics
from ..contract.chunks import Rows
from ..products import rounding
from ..proofs import fp32

_FIRST = 64
"""Rows that tell whether units are worth a thought."""
_SAMPLE = 256
_SAMPLE_ELEMENTS = 1 << 20
"""Rows that tell which, and their coordinates, at most."""
_LARGEST_EXPONENT = 460
"""Of a unit: fp64 holds products of two, and their inverses."""


class FloatScreen:
    """A value v of this screen stands for v times ``units`` (Q,) fp64."""

    def __init__(
        self,
        queries: Tensor,
        norms: Tensor,
        metric: str,
        roundoff: float,
        exponent: int = 0,
        normalises: bool = False,
    ) -> None:
        """Finite ``queries`` (Q, C) and their norms (Q,) fp64; 2^``exponent`` is the prototypes'
        unit. ``normalises``: prototypes are divided by their norms before the product, not after.
        """
        self.metric, self.channels, self.normalises = metric, queries.shape[1], normalises
        self.scale = 2.0**-exponent
        clamped = norms.clamp(min=metrics.COSINE_EPS) if metric == "cosine" else None
        lengths = norms if clamped is None else norms / clamped
        own = torch.zeros_like(norms)
        if metric == "l2":
            own += exponent
        elif normalises or (metric == "dot" and not bool(_needs_no_unit(norms, metric).all())):
            own = _exponents(lengths).masked_fill_(lengths == 0, 0)
        unit = power_of_two(own)
        self.lengths, self.units = lengths / unit, power_of_two(own + exponent)
        if clamped is not None or exponent or bool(own.any()):
            unit = unit if clamped is None else unit * clamped
            self.floats = (queries.double() / unit[:, None]).float()
        else:
            self.floats = queries.float()
        self._bounds = (self.lengths * 1.0001).float()[:, None]
        self._one = self._bounds.new_ones(1, 1)
        in_range = metric == "cosine" or bool(self.lengths.max() <= fp32.LARGEST_NORM)
        self.works = in_range and roundoff < math.inf
        self._slack = fp32.fp32_slack(metric, self.channels, roundoff)

    def multiply(self, rows: Tensor, norms: Tensor, out: Tensor, normalise: bool = False) -> None:
        """Fill ``out`` (Q, n) with values of rows (n, C) as given, and ``norms`` (n,) with theirs.

        ``normalise``: as where the screen ``normalises``.
        """
        normalise |= self.normalises
        if normalise:
            lengths = finite.norms(rows).clamp_(min=metrics.COSINE_EPS)
            floats = (rows.double() * (self.scale / lengths)[:, None]).float()
        elif self.scale != 1.0:
            floats = (rows.double() * self.scale).float()
        else:
            floats = rows.float()
        torch.linalg.vector_norm(floats, dim=1, out=norms)
        if self.metric == "l2":
            torch.addmm(norms.square() * -0.5, self.floats, floats.T, out=out)
        else:
            torch.mm(self.floats, floats.T, out=out)
        if self.metric == "cosine" and not normalise:
            out /= norms.clamp(min=metrics.COSINE_EPS)

    def slack_of_groups(self, norms: Tensor, groups: int) -> Tensor:
        """(Q, groups) or (1, 1): how far a value may be from the exact one.

        ``norms`` of rows g, g + groups, ... are of group g; fewer may be there than fill all.
        """
        if self.metric == "cosine" and not self.normalises:
            return self._slack.of(self._one, self._one)
        bounds = fp32.norm_bound(norms, self.channels)
        bounds = torch.nn.functional.pad(bounds, (0, -len(bounds) % groups))
        return self._slack.of(self._bounds, bounds.view(-1, groups).amax(0, keepdim=True))

    def largest_slack(self, norms: Tensor) -> Tensor:
        """(Q,) the same of rows with ``norms`` (n,), whichever."""
        return self.slack_of_groups(norms.amax(0, keepdim=True), 1).expand(len(self.floats), 1)[
            :, 0
        ]

    def slack_of_pairs(self, queries: Tensor, norms: Tensor) -> Tensor:
        """(n,) or (1,) the same, of pairs of ``queries`` (n,) and rows with ``norms`` (n,)."""
        if self.metric == "cosine":
            return self._slack.of(self._one[0], self._one[0])
        return self._slack.of(self._bounds[queries, 0], fp32.norm_bound(norms, self.channels))


def screen_for(queries: Tensor, norms: Tensor, rows: Rows, metric: str) -> FloatScreen:
    """The screen of finite ``queries`` (Q, C), with norms (Q,) fp64, in units that suit ``rows``.

    Where vectors have usual lengths, that is found out from a few, at little cost.
    """
    device = queries.device
    about = queries, norms, metric, rounding.operand_roundoff(device)
    first = torch.linalg.vector_norm(rows.span(0, min(_FIRST, len(rows)), device).float(), dim=1)
    fits_queries = metric == "dot" or bool(_needs_no_unit(norms, metric).all())
    if fits_queries and bool(_needs_no_unit(first.max(), metric)):
        return FloatScreen(*about)
    count = max(1, min(_SAMPLE, _SAMPLE_ELEMENTS // rows.channels))
    lengths = finite.norms(rows.sample(count, device, torch.float64))
    lengths = lengths[lengths.isfinite() & (lengths > 0)]
    if metric == "cosine":
        lengths /= lengths.clamp(min=metrics.COSINE_EPS)
    exponent = 0
    if len(lengths):  # the median: a single giant would mislead
        typical = lengths.median()
        exponent = 0 if bool(_needs_no_unit(typical, "dot")) else int(_exponents(typical))
    return FloatScreen(*about, exponent, normalises=metric == "cosine")


def _needs_no_unit(norms: Tensor, metric: str) -> Tensor:
    """bool: whether fp32 products of vectors with such norms need no other units."""
    least = metrics.COSINE_EPS if metric == "cosine" else fp32.SHORT_NORM
    return ((norms >= least) & (norms <= fp32.LONG_NORM)) | (norms == 0)


def _exponents(norms: Tensor) -> Tensor:
    """fp64 whole numbers e with 2^(e - 1) <= norm < 2^e, as far as products of two allow."""
    return torch.frexp(norms).exponent.clamp(-_LARGEST_EXPONENT, _LARGEST_EXPONENT).double()


def power_of_two(exponents: Tensor) -> Tensor:
    """fp64 2^e, to the bit; exponents are whole numbers of at most 1022."""
    return ((exponents.long() + 1023) << 52).view(torch.float64)
