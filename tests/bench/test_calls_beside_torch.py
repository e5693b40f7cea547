"""Small runs of ours beside plain torch: the same answers, and others are noticed."""

from collections.abc import Callable
from functools import partial

import pytest
import torch

from dropin.calls import in_torch
from dropin.calls import torch as beside
from dropin.pairs import Pair
from flashmatch.kernels import Matches, RangeMatches

SIZE = beside.Size(70, 1500, 16, 30)
MATCHES = {
    "same": beside.same,
    "same, label by label": beside.same_label_by_label,
    "different": beside.different,
    "allowed": beside.allowed,
    "groups": beside.groups,
}
COUNTS = {"count_within": partial(beside.count_within, share=0.01)}
PAIRS = {"within, different": partial(beside.within_different, share=0.01)}
EVERY = MATCHES | COUNTS | PAIRS


@pytest.fixture(autouse=True)
def _in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_torch, "QUERY_ROWS", 32)
    monkeypatch.setattr(in_torch, "PROTOTYPE_ROWS", 400)


@pytest.mark.parametrize("prepared", [False, True], ids=["function", "bank"])
@pytest.mark.parametrize("prepare", EVERY.values(), ids=EVERY)
def test_both_find_the_same(prepare: Callable[..., Pair], prepared: bool) -> None:
    pair = prepare(SIZE, prepared)
    assert pair.share(pair.original(), pair.ours()) == 1


@pytest.mark.parametrize("prepare", MATCHES.values(), ids=MATCHES)
def test_another_prototype_or_group_is_noticed(prepare: Callable[..., Pair]) -> None:
    pair = prepare(SIZE, True)
    original, ours = pair.original(), pair.ours()
    for rank in range(ours.indices.shape[1]):
        indices = ours.indices.clone()
        indices[3, rank] = (indices[3, rank] + 1) % SIZE.rows
        share = pair.share(original, Matches(ours.scores, indices))
        assert share == pytest.approx(1 - 1 / indices.numel())


def test_another_count_is_noticed() -> None:
    pair = COUNTS["count_within"](SIZE, True)
    original, ours = pair.original(), pair.ours()
    assert ours.sum() > 0
    ours[5] += 1
    assert pair.share(original, ours) == pytest.approx(1 - 1 / SIZE.queries)


def test_another_pair_is_noticed() -> None:
    pair = PAIRS["within, different"](SIZE, True)
    original, ours = pair.original(), pair.ours()
    best = ours.scores.argmax()
    own = ours.indices[ours.queries == ours.queries[best]].tolist()
    indices = ours.indices.clone()
    indices[best] = next(i for i in range(SIZE.rows) if i not in own)
    altered = RangeMatches(ours.offsets, indices, ours.scores)
    assert pair.share(original, altered) == pytest.approx(1 - 2 / len(indices))


def test_groups_are_of_every_group_the_best() -> None:
    """By hand: two groups, of which one has all the best."""
    prototypes = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [0.6, 0.8]])
    scores, groups = in_torch.best_groups(
        torch.tensor([[1.0, 0.0]]), prototypes, 2, torch.tensor([1, 1, 0, 0]), 2
    )
    assert groups.tolist() == [[1, 0]]
    torch.testing.assert_close(scores, torch.tensor([[1.0, 0.6]]))
