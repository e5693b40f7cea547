"""What one search of a bank took, to be read by people."""

from dataclasses import dataclass
from typing import NamedTuple

from ..notebook.tables import size, table


class Stage(NamedTuple):
    """A part of a search."""

    name: str
    """``"screen"``: products with all prototypes, in low precision; ``"select"``: what their bounds
    leave; ``"rescore"``: that in fp64; ``"certify"``: whether it is proven, in what order;
    ``"rest"``: everything else. On a GPU ``"search"``: all of it."""
    seconds: float
    """Measured."""
    predicted: float | None
    """Seconds of its arithmetic, or of its reading if that takes longer, at the rates that this
    machine reached meanwhile; None where neither tells."""


@dataclass(frozen=True)
class Explanation:
    """What a search took, of ``queries`` for the ``k`` best of ``prototypes``."""

    queries: int
    prototypes: int
    channels: int
    k: int
    backend: str
    """``"torch"`` or ``"triton"``."""
    screens: tuple[str, ...]
    """In what prototypes were multiplied, first to last: ``"int8"``, ``"bf16"``, ``"fp32"`` or
    ``"fp64"``. One behind another looked at what that left open."""
    survivors: float | None
    """Prototypes a query that the screen could not exclude, and fp64 looked at; on a GPU None."""
    repaired: int
    """Queries for which the first screen left too much, so that a wider search was needed."""
    bytes_screened: int
    """Of codes or vectors read by the screen."""
    bytes_rescored: int
    """Of vectors read for fp64; on a GPU 0, not counted."""
    seconds: float
    """Of the whole search: the median of several."""
    stages: tuple[Stage, ...]
    """In one thread of Python's: where other programs run a search may share itself otherwise."""

    def __str__(self) -> str:
        left = "not counted" if self.survivors is None else f"{self.survivors:,.1f} a query"
        lines = [
            f"{self._shape}",
            f"screen      {', then '.join(self.screens)} ({self.backend})",
            f"survivors   {left}, {self.repaired} queries repaired",
            f"read        {size(self.bytes_screened)} to screen, {size(self.bytes_rescored)} to "
            "rescore",
            f"time        {_ms(self.seconds)}",
            *(f"  {s.name:<9} {_ms(s.seconds)}, predicted {_ms(s.predicted)}" for s in self.stages),
        ]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        left = "not counted" if self.survivors is None else f"{self.survivors:,.1f}"
        rows = [
            ("screen", f"{', then '.join(self.screens)} ({self.backend})", ""),
            ("survivors a query", left, ""),
            ("repaired queries", self.repaired, ""),
            ("read to screen", size(self.bytes_screened), ""),
            ("read to rescore", size(self.bytes_rescored), ""),
            ("time", _ms(self.seconds), ""),
            *((stage.name, _ms(stage.seconds), _ms(stage.predicted)) for stage in self.stages),
        ]
        return table(f"{self._shape}", ("", "measured", "predicted"), rows)

    @property
    def _shape(self) -> str:
        return (
            f"{self.queries:,} queries, {self.prototypes:,} prototypes of {self.channels:,} "
            f"channels, k = {self.k:,}"
        )


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:,.3g} ms"
