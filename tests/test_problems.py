"""The assertion that every leg relies on fails when it should."""

import pytest
import torch
from problems import KINDS, Problem, assert_exact, vectors

QUERIES = torch.tensor([[1.0, 0.0]])
PROTOTYPES = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 2.0]])
PROBLEM = Problem(QUERIES, [PROTOTYPES], 3, "dot")
SCORES, INDICES = torch.tensor([[1.0, 1.0, 0.0]]), torch.tensor([[0, 2, 1]])


def test_the_right_answer_passes() -> None:
    assert_exact((SCORES, INDICES), PROBLEM)


@pytest.mark.parametrize(
    "wrong",
    [
        (SCORES, torch.tensor([[2, 0, 1]])),  # a tie the wrong way round
        (SCORES, torch.tensor([[0, 2, 3]])),  # a tie cut at the wrong index
        (SCORES, torch.tensor([[0, 0, 1]])),
        (torch.nextafter(SCORES, torch.tensor(2.0)), INDICES),  # one ulp
        (SCORES * torch.tensor([1, 1, -1]), INDICES),  # -0
        (SCORES.double(), INDICES),
        (SCORES, INDICES.int()),
        (SCORES[:, :2], INDICES[:, :2]),
    ],
)
def test_a_wrong_answer_fails(wrong: tuple[torch.Tensor, torch.Tensor]) -> None:
    with pytest.raises((AssertionError, RuntimeError)):
        assert_exact(wrong, PROBLEM)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_finite_and_of_its_shape(kind: str) -> None:
    x = vectors(kind, 30, 4, torch.Generator().manual_seed(0))
    assert x.shape == (30, 4)
    assert x.isfinite().all()
    assert vectors(kind, 0, 4, torch.Generator().manual_seed(0)).shape == (0, 4)
