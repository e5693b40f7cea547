"""What counts as the same k best, beside a library that rounds."""

import pytest
import torch

from dropin.calls.ranks import evaluated, share
from flashmatch.kernels import Matches

PROTOTYPES = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
QUERIES = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
FOUND = Matches(
    torch.tensor([[1.0, 0.8, 0.6], [1.0, 0.8, 0.6]]), torch.tensor([[0, 1, 3], [4, 3, 1]])
)
SIXTH = 1 / 6


def share_of(ours: Matches) -> float:
    return share(FOUND, ours, evaluated(QUERIES, PROTOTYPES, ours.indices))


def changed(query: int, rank: int, index: int) -> Matches:
    indices = FOUND.indices.clone()
    indices[query, rank] = index
    return FOUND._replace(indices=indices)


def test_the_same_is_all_of_it() -> None:
    assert share_of(FOUND) == 1


@pytest.mark.parametrize(("query", "rank"), [(0, 0), (0, 2), (1, 2)])
def test_a_wrong_neighbour_is_noticed_at_any_rank_though_its_score_is_right(
    query: int, rank: int
) -> None:
    wrong = 4 if query == 0 else 0
    assert share_of(changed(query, rank, wrong)) == pytest.approx(1 - SIXTH)


def test_a_prototype_that_scores_the_same_counts_as_equal() -> None:
    assert share_of(changed(0, 1, 2)) == 1
    assert share_of(changed(1, 2, 2)) == 1


def test_a_wrong_score_is_noticed_and_rounding_is_not() -> None:
    by = torch.zeros(2, 3)
    by[1, 0] = 1
    assert share_of(FOUND._replace(scores=FOUND.scores + 1e-4 * by)) == pytest.approx(1 - SIXTH)
    assert share_of(FOUND._replace(scores=FOUND.scores + 3e-7 * by)) == 1


def test_a_search_that_finds_too_few_is_noticed() -> None:
    scores, indices = FOUND.scores.clone(), FOUND.indices.clone()
    scores[0, 2], indices[0, 2] = -torch.inf, -1
    assert share_of(Matches(scores, indices)) == pytest.approx(1 - SIXTH)
