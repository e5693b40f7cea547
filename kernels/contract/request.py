"""What a search is asked for, beside its queries and prototypes."""

from dataclasses import dataclass, replace

from torch import Tensor


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

    @property
    def has_pairs(self) -> bool:
        """Whether the mask is of pairs."""
        return self.mask is not None and self.mask.ndim == 2

    def masked(self, mask: Tensor | None) -> "Request":
        """The same with another mask."""
        return replace(self, mask=mask)

    def of(self, queries: slice | Tensor) -> "Request":
        """The same for some of the queries."""
        return self.masked(self.mask[queries]) if self.mask is not None and self.has_pairs else self

    def mask_of(self, first: int, last: int) -> Tensor | None:
        """The mask of prototypes first..last."""
        return None if self.mask is None else self.mask[..., first:last]
