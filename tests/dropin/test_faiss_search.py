"""Searches beside FAISS's, over random shapes.

Ours must be the exact answer, which ``verify`` settles. FAISS sums in float32: its answer must be
one that such sums can give, by the textbook bound of their rounding, and differ from ours nowhere
else.
"""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import flashmatch.adapters.faiss as ours

faiss = pytest.importorskip("faiss")
from faiss_rounding import (  # noqa: E402
    KINDS,
    METRICS,
    WORST,
    Problem,
    assert_agree,
    assert_attainable,
    drawn,
)

pytestmark = pytest.mark.hypothesis


class TestAssertions:
    """The assertions notice wrong answers."""

    problem = Problem(torch.eye(3)[:1], torch.tensor([[3.0, 0, 0], [2, 0, 0], [1, 0, 0]]), "dot")

    @pytest.mark.parametrize(
        ("values", "indices"),
        [
            ([3.0, 1.0], [0, 2]),  # left one out
            ([2.0, 3.0], [1, 0]),  # worst first
            ([3.0, 2.001], [0, 1]),  # a wrong distance
            ([3.0, 3.0], [0, 0]),  # one twice
            ([3.0, -WORST], [0, -1]),  # one too few
            ([-WORST, 3.0], [-1, 0]),
        ],
    )
    def test_wrong(self, values: list[float], indices: list[int]) -> None:
        wrong = np.array([values], dtype=np.float32), np.array([indices])
        right = np.array([[3.0, 2.0]], dtype=np.float32), np.array([[0, 1]])
        assert_agree(self.problem, right, right)
        with pytest.raises(AssertionError):
            assert_attainable(self.problem, wrong)
        with pytest.raises(AssertionError):
            assert_agree(self.problem, right, wrong)

    def test_empty_ranks(self) -> None:
        for filler in (0.0, -np.inf):
            wrong = np.array([[3, 2, 1, filler]], dtype=np.float32), np.array([[0, 1, 2, -1]])
            with pytest.raises(AssertionError):
                assert_attainable(self.problem, wrong)


@given(
    seed=st.integers(0, 2**32),
    kind=st.sampled_from(KINDS),
    metric=st.sampled_from(tuple(METRICS)),
    shape=st.tuples(st.integers(1, 40), st.integers(0, 700), st.integers(1, 70)),
    k=st.one_of(st.integers(1, 12), st.integers(1, 800)),
    share=st.sampled_from((None, 0.0, 0.1, 0.9)),
)
def test_any_shape(
    seed: int, kind: str, metric: str, shape: tuple[int, int, int], k: int, share: float | None
) -> None:
    generator = torch.Generator().manual_seed(seed)
    queries, rows = (drawn(kind, n, shape[2], generator) for n in shape[:2])
    mask = None if share is None else torch.rand(shape[1], generator=generator) < share
    found = []
    for library in (faiss, ours):
        index = library.IndexFlat(shape[2], METRICS[metric])
        index.add(rows.numpy())
        params = None
        if mask is not None:
            chosen = library.IDSelectorBatch(mask.nonzero()[:, 0].numpy())
            params = library.SearchParameters(sel=chosen)
        found.append(index.search(queries.numpy(), k, params=params))
    assert_agree(Problem(queries, rows, metric, mask), *found)
    assert [x.dtype for x in found[1]] == [x.dtype for x in found[0]]
    if mask is None:
        by_knn = [
            lib.knn(queries.numpy(), rows.numpy(), k, METRICS[metric]) for lib in (faiss, ours)
        ]
        assert_agree(Problem(queries, rows, metric), *by_knn)
