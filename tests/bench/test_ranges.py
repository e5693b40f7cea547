"""What counts as the same within a threshold, beside a library that rounds."""

import numpy as np
import pytest

from dropin.ranges import InRange, share

FOUND = InRange(np.array([0, 2, 2, 3]), np.array([1.0, 4.0, 2.0]), np.array([5, 7, 5]))


def without(pair: int) -> InRange:
    lims = FOUND.lims - (np.arange(len(FOUND.lims)) > FOUND.queries()[pair])
    return InRange(lims, np.delete(FOUND.distances, pair), np.delete(FOUND.labels, pair))


@pytest.mark.parametrize("pair", [0, 1, 2])
def test_a_pair_that_one_has_is_noticed_unless_at_the_threshold(pair: int) -> None:
    assert share(FOUND, FOUND, 5.0) == 1
    for two in ((FOUND, without(pair)), (without(pair), FOUND)):
        assert share(*two, 5.0) == pytest.approx(2 / 3)
        assert share(*two, float(FOUND.distances[pair]) * (1 + 1e-6)) == 1


def test_another_query_or_label_is_noticed() -> None:
    assert share(FOUND, FOUND._replace(lims=np.array([0, 1, 2, 3])), 5.0) < 1
    assert share(FOUND, FOUND._replace(labels=np.array([5, 6, 5])), 5.0) < 1


def test_nothing_is_nothing() -> None:
    empty = InRange(np.zeros(4, np.uint64), np.empty(0, np.float32), np.empty(0, np.int64))
    assert share(empty, empty, 1.0) == 1
