"""What a search is asked for, beside its queries and prototypes."""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True, eq=False)
class Request:
    """Checked arguments of a search; k >= 1 and there are queries."""

    k: int
    metric: str
    mask: Tensor | None = None
    """bool, (M,) or (Q, M); True = may match."""
    chunk_rows: int | None = None
    exclude: bool = False
    """Whether what is not finite never matches; it is refused otherwise."""
    held: int = field(default=0, kw_only=True)
    """Bytes of the workspace that who asks holds meanwhile."""

    @property
    def has_pairs(self) -> bool:
        """Whether the mask is of pairs."""
        return self.mask is not None and self.mask.ndim == 2

    def masked(self, mask: Tensor | None) -> "Self":
        """The same with another mask."""
        return replace(self, mask=mask)

    def of(self, queries: slice | Tensor) -> "Self":
        """The same for some of the queries."""
        return self.masked(self.mask[queries]) if self.mask is not None and self.has_pairs else self

    def mask_of(self, first: int, last: int) -> Tensor | None:
        """The mask of prototypes first..last."""
        return None if self.mask is None else self.mask[..., first:last]


@dataclass(frozen=True, eq=False)
class RangeRequest(Request):
    """Checked arguments of a search for all that reach a score; ``k`` is 1, for plans."""

    k: int = 1
    metric: str = "cosine"
    least: Tensor | None = None
    """(Q,) fp32 on the queries' device, not NaN: what a score has to reach."""
    limit: int | None = None
    """Matches of a query at most, the best ones."""
    counts_only: bool = False
    own: Tensor | None = None
    """(Q,) int64: the prototype that each query is, which it does not match; they ascend."""
    once: bool = False
    """Whether it matches only those behind its own."""

    def of(self, queries: slice | Tensor) -> "Self":
        assert self.least is not None
        own = None if self.own is None else self.own[queries]
        return replace(super().of(queries), least=self.least[queries], own=own)

    def on(self, device: torch.device) -> "Self":
        """The same on another device."""
        moved = {
            name: None if value is None else value.to(device)
            for name, value in (("least", self.least), ("mask", self.mask), ("own", self.own))
        }
        return replace(self, **moved)

    def is_other(self, queries: Tensor, indices: Tensor) -> Tensor | None:
        """(n,) bool: whether these pairs (n,) may match; None where all may."""
        return None if self.own is None else self._apart(self.own[queries], indices)

    def are_others(self, first: int, count: int) -> Tensor:
        """(Q, count) bool: the same of all queries and the prototypes from ``first`` on."""
        assert self.own is not None
        indices = torch.arange(first, first + count, device=self.own.device)
        return self._apart(self.own[:, None], indices)

    def _apart(self, own: Tensor, indices: Tensor) -> Tensor:
        return indices > own if self.once else indices != own
