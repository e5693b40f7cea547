"""What the certificate makes of scores that were made up: which are asked for, which are proven."""

import numpy as np
import pytest
import torch

from flashmatch.kernels.torch_backend.cpu.certificate import certified

INF = np.inf
STEP = 2.0**-23
"""From 1 to the next number of fp32."""


def certify(
    exact: list[float],
    k: int,
    left_out: float | None,
    error: float = 1e-12,
    indices: list[int] | None = None,
    settled: dict[int, float] | None = None,
) -> tuple[list[float], list[int], bool, list[int]]:
    """Scores, indices, whether they are proven, and the columns that were settled, of one query."""
    asked: list[int] = []

    def settle(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        assert (rows == 0).all()
        asked.extend(columns.tolist())
        return np.array([(settled or {})[c] for c in columns.tolist()], np.float32)

    at = np.array([indices or list(range(len(exact)))], np.int64)
    bound = None if left_out is None else np.array([[left_out]])
    scores, chosen, unproven = certified(np.array([exact]), error, at, bound, k, settle)
    assert (scores.dtype, chosen.dtype) == (torch.float32, torch.int64)
    assert scores.shape == chosen.shape == (1, k)
    is_proven = unproven is None or not bool(unproven[0])
    assert unproven is None or unproven.shape == (1,)
    return scores[0].tolist(), chosen[0].tolist(), is_proven, asked


def test_what_is_clear_is_returned_as_it_is() -> None:
    assert certify([5, 4, 3, 2], 2, 1.0, indices=[9, 7, 8, 1]) == ([5, 4], [9, 7], True, [])


@pytest.mark.parametrize(
    ("left_out", "proven"),
    [(1 - STEP, True), (1 - STEP / 8, False), (1.0, False), (1 + STEP, False), (-INF, True)],
)
@pytest.mark.parametrize("others", [[], [0.5]])
@pytest.mark.parametrize("ties", [False, True])
def test_what_is_left_out_must_round_to_less_than_the_kth(
    left_out: float, proven: bool, others: list[float], ties: bool
) -> None:
    """To the k-th itself is not enough: its index may be lower."""
    first = 1.0 if ties else 2.0
    found = certify([first, 1.0, *others], 2, left_out)
    assert found == ([first, 1], [0, 1], proven, [])


def test_nothing_was_left_out() -> None:
    assert certify([2, 1], 2, None) == ([2, 1], [0, 1], True, [])
    assert certify([1, 1], 2, None, indices=[4, 3]) == ([1, 1], [3, 4], True, [])


def test_ties_come_lowest_index_first_even_beyond_the_kth() -> None:
    assert certify([2, 1, 1, 1], 2, 0.0, indices=[5, 8, 9, 3]) == ([2, 1], [5, 3], True, [])
    assert certify([1, 1, 1, 0.5], 3, -1.0, indices=[5, 8, 3, 0]) == (
        [1, 1, 1],
        [3, 5, 8],
        True,
        [],
    )


def test_what_rounds_to_one_number_is_a_tie() -> None:
    found = certify([2, 1 + STEP / 8, 1 - STEP / 16], 2, 0.0, indices=[1, 9, 3])
    assert found == ([2, 1], [1, 3], True, [])


def test_the_undecided_are_settled_and_nothing_else() -> None:
    half = 1 + STEP / 2
    settled = {1: 1.0, 2: 1 + STEP}
    found = certify([2, half, half, 0.5], 2, 0.0, error=1e-10, settled=settled)
    assert found == ([2, 1 + STEP], [0, 2], True, [1, 2])


def test_what_is_settled_to_less_may_leave_too_little() -> None:
    """The k-th falls to what is left out, and is no longer proven."""
    half = 1 + STEP / 2
    assert certify([2, half], 2, 1.0, error=1e-10, settled={1: 1 + STEP})[2]
    assert not certify([2, half], 2, 1.0, error=1e-10, settled={1: 1.0})[2]


def test_an_error_of_nothing_settles_nothing() -> None:
    assert certify([2, 1 + STEP / 2], 1, 0.0, error=0.0)[3] == []


@pytest.mark.parametrize("left_out", [None, -INF])
def test_what_may_not_match_is_minus_one(left_out: float | None) -> None:
    assert certify([2, -INF, -INF], 2, left_out) == ([2, -INF], [0, -1], True, [])
    assert certify([-INF, -INF], 2, left_out) == ([-INF, -INF], [-1, -1], True, [])
    half = 1 + STEP / 2
    found = certify([half, -INF], 2, left_out, error=1e-10, settled={0: 1.0})
    assert found == ([1, -INF], [0, -1], True, [0])


def test_zeros_have_one_sign() -> None:
    scores, indices, *_ = certify([0.0, -0.0, -1.0], 2, -2.0, error=0.0, indices=[4, 3, 0])
    assert indices == [3, 4]
    assert not any(np.signbit(scores))


def test_each_query_is_proven_by_itself() -> None:
    exact = np.array([[3.0, 2.0], [3.0, 2.0], [3.0, 3.0]])
    left_out = np.array([[1.0], [2.5], [3.0]])
    indices = np.arange(6).reshape(3, 2)
    _, chosen, unproven = certified(exact, 1e-12, indices, left_out, 2, lambda *_: None)
    assert chosen.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert unproven is not None
    assert unproven.tolist() == [False, True, True]
    _, chosen, unproven = certified(exact, 1e-12, indices, left_out, 1, lambda *_: None)
    assert unproven is not None
    assert unproven.tolist() == [False, False, True]
