"""What two libraries find within a threshold: the same, but for what lies at the threshold.

The originals round: a pair that they put on the other side counts as equal where its distance is
the threshold to five digits.
"""

from typing import NamedTuple

import numpy as np

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


def share(original: InRange, ours: InRange, threshold: float) -> float:
    """Of all pairs found, how many both have, or lie at the threshold."""
    keys = [found.keys() for found in (original, ours)]
    alone = 0
    for found, own, others in zip((original, ours), keys, reversed(keys), strict=True):
        is_alone = ~np.isin(own, others, assume_unique=True)
        far = np.abs(found.distances[is_alone] - threshold) > NEAR * threshold
        alone += int(far.sum())
    return 1 - alone / max(1, *map(len, keys))
