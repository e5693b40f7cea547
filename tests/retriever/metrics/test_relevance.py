"""Which matches are relevant, against sets in plain loops."""

import numpy as np
import pytest
import torch
from rankings import PROTOTYPES, RANKS, per_query, random_batch, wanted_of

from flashmatch.retriever import metrics as m
from flashmatch.retriever.metrics import relevance


@pytest.mark.parametrize("seed", range(3))
def test_relevance_is_equality_of_labels(seed: int) -> None:
    indices, queries, prototypes = random_batch(seed)
    relevant, total, retrieved = relevance(indices, queries, prototypes)
    wanted = wanted_of(queries, prototypes)
    rankings = indices.tolist()
    assert relevant.tolist() == [[i in w for i in r] for r, w in zip(rankings, wanted, strict=True)]
    assert total.tolist() == [len(w) for w in wanted]
    assert 0 in total
    assert retrieved.tolist() == [sum(i >= 0 for i in r) for r in rankings]
    assert min(retrieved.tolist()) < RANKS


def test_labels_may_be_lists_and_arrays() -> None:
    indices = torch.tensor([[2, 0]], dtype=torch.int32)
    for labels in ([7, 8, 9], np.array([7, 8, 9]), torch.tensor([7, 8, 9], dtype=torch.uint8)):
        batch = relevance(indices, [9], labels)
        assert batch.relevant.tolist() == [[True, False]]
        assert batch.total.tolist() == [1]


def test_no_queries_and_no_prototypes() -> None:
    batch = relevance(torch.zeros(0, 3, dtype=torch.int64), [], [1, 2])
    assert [tuple(part.shape) for part in batch] == [(0, 3), (0,), (0,)]
    assert all(len(values) == 0 for values in per_query(batch, 3).values())
    batch = relevance(torch.full((2, 3), -1), [0, 1], [])
    assert not batch.relevant.any()
    assert batch.total.tolist() == batch.retrieved.tolist() == [0, 0]


@pytest.mark.parametrize("seed", range(3))
def test_targets_are_a_matrix_or_lists(seed: int) -> None:
    indices, queries, prototypes = random_batch(seed)
    expected = relevance(indices, queries, prototypes)
    lists = [sorted(w) for w in wanted_of(queries, prototypes)]
    matrix = queries[:, None] == prototypes
    for targets in (
        lists,
        [torch.tensor(each, dtype=torch.int64) for each in lists],
        [each + each for each in lists],
        matrix,
        matrix.float() * 0.3,
        matrix.long().numpy(),
    ):
        for ours, theirs in zip(m.relevance_to_targets(indices, targets), expected, strict=True):
            assert torch.equal(ours, theirs)


def test_no_match_is_not_the_last_row_of_the_query_before() -> None:
    targets = [[2**32 - 1, 5], [5]]
    batch = m.relevance_to_targets(torch.tensor([[2**32 - 1, 5], [-1, 5]]), targets)
    assert batch.relevant.tolist() == [[True, True], [False, True]]
    batch = m.relevance_to_targets(torch.tensor([[5, 6], [5, 6]]), targets, exclude_self=[5, -1])
    assert batch.total.tolist() == [1, 1]


@pytest.mark.parametrize("form", ["labels", "lists", "matrix"])
def test_leave_one_out_takes_the_query_out_of_ranking_and_total(form: str) -> None:
    """Queries are prototypes; some rank behind their double, some are beyond the last rank."""
    indices, _, prototypes = random_batch(5)
    selves = indices[:, 4].clone()  # some are -1, for which nothing is taken out
    selves[::3] = (indices[::3, 0] + 1) % PROTOTYPES
    labels = torch.where(selves < 0, 0, prototypes[selves])
    matrix = labels[:, None] == prototypes
    lists = [row.nonzero()[:, 0].tolist() for row in matrix]
    targets = {"lists": lists, "matrix": matrix}
    if form == "labels":
        batch = relevance(indices, labels, prototypes, exclude_self=selves)
    else:
        batch = m.relevance_to_targets(indices, targets[form], exclude_self=selves)
    wanted = wanted_of(labels, prototypes)
    for row, self_index in enumerate(selves.tolist()):
        ranking = indices[row].tolist()
        found = self_index in ranking and self_index >= 0
        ranking = [i for i in ranking if i != self_index] if found else ranking[:-1]
        assert batch.relevant[row].tolist() == [i in wanted[row] - {self_index} for i in ranking]
        assert int(batch.total[row]) == len(wanted[row] - {self_index})
        assert int(batch.retrieved[row]) == sum(i >= 0 for i in ranking)
