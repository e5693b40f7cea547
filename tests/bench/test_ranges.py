"""What counts as the same within a threshold, beside a library that rounds."""

import numpy as np
import pytest
import torch

from dropin.ranges import InRange, at_threshold, of_matches, share, share_of_counts
from flashmatch.kernels import RangeMatches

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


def test_of_matches_has_the_same_pairs() -> None:
    parts = FOUND.lims, FOUND.labels, FOUND.distances
    found = of_matches(RangeMatches(*map(torch.from_numpy, parts)))
    assert share(FOUND, found, 5.0) == 1
    np.testing.assert_array_equal(found.distances, FOUND.distances)


def test_a_count_that_differs_is_noticed_unless_at_the_threshold() -> None:
    counts, none = np.array([3, 0, 7]), np.zeros(3, np.int64)
    assert share_of_counts(counts, counts, none) == 1
    for other in (np.array([3, 1, 7]), np.array([3, 0, 5])):
        assert share_of_counts(counts, other, none) == pytest.approx(2 / 3)
        assert share_of_counts(counts, other, np.abs(counts - other)) == 1
        assert share_of_counts(counts, other, np.array([2, 0, 1])) < 1


def test_at_the_threshold_is_near_it_in_five_digits() -> None:
    distances = np.array([0.2, 0.2 * (1 + 1e-6), 0.2 * (1 - 1e-6), 0.2001, 0.1999])
    assert at_threshold(distances, 0.2).tolist() == [True, True, True, False, False]
