"""What a verification found: the numbers, the ranks that are wrong, and a report to print."""

from dataclasses import dataclass
from typing import NamedTuple

LISTED = 100
"""Disagreements a Verification lists at most."""


class Disagreement(NamedTuple):
    """One rank of a wrong query. Index -1 and score -inf stand for no match."""

    query: int
    rank: int
    expected_index: int
    expected_score: float
    got_index: int
    got_score: float

    @property
    def apart(self) -> float:
        """Absolute difference of the two scores; 0 for equal infinities, NaN for NaN."""
        same = self.expected_score == self.got_score
        return 0.0 if same else abs(self.expected_score - self.got_score)

    def __str__(self) -> str:
        return (
            f"query {self.query}, rank {self.rank}: "
            f"expected {self.expected_index} with {self.expected_score:.9g}, "
            f"got {self.got_index} with {self.got_score:.9g}, {self.apart:.2g} apart"
        )


@dataclass(frozen=True)
class Verification:
    """What ``verify`` found. True in a condition if everything checked is right; print it."""

    queries: int
    """How many queries were checked."""
    wrong: int
    """How many of them are wrong."""
    disagreements: tuple[Disagreement, ...]
    """Every rank at which a wrong query differs from the expected, the first 100 of them."""
    largest_score_error: float
    """Largest absolute difference between a score given and the fp64 score of the same pair,
    rounded to fp32, over all pairs that may match; inf for NaN."""

    @property
    def ok(self) -> bool:
        return self.wrong == 0

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        head = (
            f"{self.queries} queries checked, {self.wrong} wrong; "
            f"largest score error {self.largest_score_error:.2g}"
        )
        full = len(self.disagreements) == LISTED
        return "\n  ".join([head, *map(str, self.disagreements), *["..."] * full])
