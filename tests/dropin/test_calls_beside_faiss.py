"""Small runs of ours beside FAISS, as `python bench dropin` times them: the same answers."""

from functools import partial

import numpy as np
import pytest

faiss = pytest.importorskip("faiss")
beside = pytest.importorskip("dropin.calls.faiss")

EVERY = {
    "within": partial(beside.within, 40, 3000, 16, 0.01),
    "pairs": partial(beside.pairs, 700, 16, 0.001),
    "neighbors": partial(beside.neighbors, 700, 16),
    "same, selected": partial(beside.same, 60, 1500, 16, 30, beside.selected),
    "same, apart": partial(beside.same, 60, 1500, 16, 30, beside.apart),
}


@pytest.mark.parametrize("prepare", EVERY.values(), ids=EVERY)
def test_both_find_the_same_and_what_is_altered_is_noticed(prepare: partial) -> None:
    pair = prepare()
    original, ours = pair.original(), pair.ours()
    assert len(ours.scores)
    assert pair.share(original, ours) == 1
    altered = (ours.indices + 1) % (ours.indices.max() + 1)
    assert pair.share(original, ours._replace(indices=altered)) < 0.5


def test_each_is_left_out_of_its_own_neighbours_wherever_it_is() -> None:
    scores = np.array([[3, 2, 1], [6, 5, 4], [9, 8, 7]], np.float32)
    ids = np.array([[0, 1, 2], [0, 1, 2], [1, 0, 3]])  # the last is not among its own
    left = beside.others(scores, ids)
    assert left[0].tolist() == [[2, 1], [6, 4], [9, 8]]
    assert left[1].tolist() == [[1, 2], [0, 2], [1, 0]]


def test_each_pair_is_kept_once() -> None:
    lims, ids = np.array([0, 2, 4, 7]), np.array([0, 2, 1, 2, 0, 1, 2])
    found = beside.each_once(lims, np.arange(7, dtype=np.float32), ids)
    assert found.lims.tolist() == [0, 1, 2, 2]
    assert found.labels.tolist() == [2, 2]
    assert found.distances.tolist() == [1, 3]
