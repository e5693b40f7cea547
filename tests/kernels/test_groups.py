"""At most so many of each group, in the one order, whatever has to be passed over."""

import pytest
import torch
from allocations import peak_bytes
from drawn import problems
from hypothesis import given
from hypothesis import strategies as st
from labelled import Conditions, conditions, labels_of, plain
from problems import METRICS, Problem, vectors
from screens import SCREENS, screen_small

from flashmatch import PrototypeBank, kernels, topk
from flashmatch.kernels.contract import reference

pytestmark = pytest.mark.usefixtures("poisoned_empty")
MIB = 2**20


def assert_same(found: tuple[torch.Tensor, torch.Tensor], it: Problem, asked: Conditions) -> None:
    scores, indices = asked.expected(it)
    assert torch.equal(found[1], indices)
    assert torch.equal(found[0], scores)


@given(problems(largest=60, channels=16, dtypes=(torch.float32, torch.float16)), st.data())
def test_equals_the_oracle(it: Problem, data: st.DataObject) -> None:
    asked = data.draw(conditions(it, groups=True))
    found = topk(it.queries, it.prototypes, it.k, **it.options(), **asked.options())
    assert_same(found, it, asked)


@pytest.mark.parametrize("kind", ["gaussian", "duplicates", "identical"])
@pytest.mark.parametrize("per_group", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 4, 30, 300])
def test_every_size_of_groups(count: int, per_group: int, kind: str) -> None:
    it = plain(5, 300, 7, kind=kind)
    asked = Conditions({}, (torch.arange(300) * count // 300).tolist(), per_group)
    assert_same(topk(it.queries, it.prototypes, 7, **asked.options()), it, asked)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("screen", SCREENS)
def test_a_bank_without_some_rows(
    screen: str, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen_small(monkeypatch)
    it = plain(6, 1500, 6, metric, "duplicates")
    bank = PrototypeBank(it.prototypes, metric=metric, screen=screen)
    bank.remove(list(range(0, 1500, 4)))
    here = torch.arange(1500) % 4 != 0
    left = it.replace(prototypes=[it.prototypes[0][here]])
    groups = (torch.arange(1500) // 70)[here].tolist()
    same = tuple(part.tolist() for part in labels_of(6, left.rows, 2, 0))
    for labels in ({}, {"same": same}, {"different": same}):
        asked = Conditions(labels, groups, 2)
        assert_same(bank.topk(it.queries, 6, **asked.options()), left, asked)
        ids = bank.search(it.queries, 6, **asked.options()).ids
        indices = asked.expected(left)[1]
        assert torch.equal(ids, torch.where(indices < 0, -1, bank.ids[indices]))


def test_fewer_groups_than_k() -> None:
    scores, indices = topk(torch.ones(2, 3), torch.ones(9, 3), 4, groups=[0, 1, 0] * 3)
    assert indices.tolist() == [[0, 1, -1, -1]] * 2
    assert scores[:, 2:].tolist() == [[-torch.inf] * 2] * 2


def test_nothing_to_search() -> None:
    none, some = torch.empty(0, 4), torch.ones(3, 4)
    assert topk(none, some, 2, groups=[1, 1, 2]).indices.shape == (0, 2)
    assert topk(some, none, 0, groups=[]).indices.shape == (3, 0)
    nobody = torch.zeros(3) > 0
    assert topk(some, some, 2, groups=[1, 1, 2], mask=nobody).indices.tolist() == [[-1, -1]] * 3


@pytest.mark.parametrize("per_group", [1, 3])
@pytest.mark.parametrize("kind", ["gaussian", "identical"])
def test_giant_groups_end_and_stay_within_the_workspace(
    kind: str, per_group: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best 12,000 of each query are of few groups, and then there are small ones."""
    monkeypatch.setattr(kernels, "WORKSPACE_BYTES", 16 * MIB)
    rows, k = 20_000, 10
    generator = torch.Generator().manual_seed(0)
    queries, prototypes = (vectors(kind, n, 12, generator).float() for n in (400, rows))
    prototypes = prototypes.abs() * torch.linspace(4, 1, rows)[:, None]
    queries, groups = queries.abs(), torch.arange(rows).clamp(min=12_000)
    groups[:12_000] = torch.arange(12_000) // 6_000

    def search() -> tuple[torch.Tensor, torch.Tensor]:
        return topk(queries, prototypes, k, metric="dot", groups=groups, per_group=per_group)

    topk(queries, prototypes, 1)
    assert peak_bytes(search) - 400 * k * 12 <= 16 * MIB + 64 * rows
    it = Problem(queries[:3], [prototypes], rows, "dot")
    expected = reference.topk_of_groups(it.oracle(), groups.tolist(), per_group, k)
    scores, indices = search()
    assert torch.equal(indices[:3], expected[1])
    assert torch.equal(scores[:3], expected[0])


def test_gradients() -> None:
    queries, prototypes = torch.randn(4, 5, requires_grad=True), torch.randn(30, 5)
    scores, indices = topk(queries, prototypes, 8, metric="dot", groups=torch.arange(30) % 6)
    there = indices >= 0
    assert there.sum(1).tolist() == [6] * 4
    actual = torch.autograd.grad(scores[there].sum(), queries)[0]
    expected = prototypes[indices.clamp(min=0)].mul(there[..., None]).sum(1)
    torch.testing.assert_close(actual, expected)
