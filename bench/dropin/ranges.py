"""What two libraries find within a threshold: the same, but for what lies at the threshold.

The originals round: a pair that they put on the other side counts as equal where its distance is
the threshold to five digits.
"""

from typing import NamedTuple

import numpy as np

from flashmatch.kernels import RangeMatches

NEAR = 1e-5


class InRange(NamedTuple):
    """All within a threshold, query by query, as FAISS has it."""

    lims: np.ndarray
    distances: np.ndarray
    labels: np.ndarray

    def queries(self) -> np.ndarray:
        """(n,) int64: whose each pair is."""
        return np.repeat(np.arange(len(self.lims) - 1), np.diff(self.lims.astype(np.int64)))

    def keys(self) -> np.ndarray:
        """(n,) int64: each pair's own, of fewer than 2^32 rows."""
        return (self.queries() << 32) | self.labels


def of_matches(found: RangeMatches) -> InRange:
    return InRange(found.offsets.numpy(), found.scores.numpy(), found.indices.numpy())


def share(original: InRange, ours: InRange, threshold: float) -> float:
    """Of all pairs found, how many both have, or lie at the threshold."""
    keys = [found.keys() for found in (original, ours)]
    alone = 0
    for found, own, others in zip((original, ours), keys, reversed(keys), strict=True):
        is_alone = ~np.isin(own, others, assume_unique=True)
        alone += int((~at_threshold(found.distances[is_alone], threshold)).sum())
    return 1 - alone / max(1, *map(len, keys))


def share_of_counts(original: np.ndarray, ours: np.ndarray, undecided: np.ndarray) -> float:
    """Of all queries, for how many both count the same, but for what lies at the threshold.

    ``undecided`` (Q,): how many pairs of each query do.
    """
    return float((np.abs(original - ours) <= undecided).mean())


def at_threshold(distances: np.ndarray, threshold: float) -> np.ndarray:
    return np.abs(distances - threshold) <= NEAR * threshold
