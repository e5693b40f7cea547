"""Searches by labels find what the oracle finds by a dense mask, bit for bit, without one."""

import re
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from allocations import peak_bytes
from drawn import problems
from hypothesis import given
from hypothesis import strategies as st
from labelled import Conditions, conditions, labels_of, plain
from problems import METRICS, Problem, assert_exact
from screens import SCREENS, screen_small

from flashmatch import PrototypeBank, count_within, kernels, topk, within
from flashmatch.kernels.contract import reference
from flashmatch.kernels.labels import cuts, sources

pytestmark = pytest.mark.usefixtures("poisoned_empty")
MIB = 2**20


@pytest.fixture(params=["listed", "one by one", "whole", "pieces"], scope="class")
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    """Pairs of labels are listed, or labels have a search each, of all prototypes or of some that
    are gathered.

    Ends with each test: it has no class, and hypothesis wants more than a function's scope.
    """
    patch = pytest.MonkeyPatch()
    if request.param != "listed":
        patch.setattr(cuts, "LISTED_PRODUCTS", 0)
    patch.setattr(sources.Vectors, "whole", 0.0 if request.param == "whole" else 2.0)
    if request.param == "pieces":  # a few rows at a time, and a query or two
        patch.setattr(sources.Vectors, "gathered_rows", lambda self, share: 7)
    yield request.param
    patch.undo()


@pytest.fixture(params=SCREENS)
def screen(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    screen_small(monkeypatch)
    return request.param


def run(it: Problem, asked: Conditions) -> tuple[torch.Tensor, torch.Tensor]:
    return topk(it.queries, it.prototypes, it.k, **it.options(), **asked.options())


@pytest.mark.usefixtures("way")
@given(problems(largest=90, channels=20), st.data())
def test_equals_the_oracle(it: Problem, data: st.DataObject) -> None:
    asked = data.draw(conditions(it))
    assert_exact(run(it, asked), asked.masked(it))


@pytest.mark.usefixtures("way")
@given(problems(largest=90, channels=20), st.data())
def test_in_range_equals_the_oracle(it: Problem, data: st.DataObject) -> None:
    asked = data.draw(conditions(it))
    dense, by_mask = it.options(), asked.masked(it).options()
    threshold = data.draw(st.sampled_from((-1.0, 0.0, 0.3)))
    more = {"limit": data.draw(st.sampled_from((None, 1, 3))), "sort": data.draw(st.booleans())}
    about = it.queries, it.prototypes, threshold
    found = within(*about, **more, **dense, **asked.labels)
    assert all(map(torch.equal, found, within(*about, **more, **by_mask)))
    counts = count_within(*about, **dense, **asked.labels)
    assert torch.equal(counts, count_within(*about, **by_mask))


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
    ("metric", "kind"), [("cosine", "duplicates"), ("dot", "gaussian"), ("l2", "duplicates")]
)
@pytest.mark.parametrize("names", ["same", "different", "allowed", "same different", "all"])
def test_a_bank_without_some_rows(screen: str, names: str, metric: str, kind: str) -> None:
    it, rows = plain(20, 1100, 9, metric, kind), 1100  # two pages of codes
    it.prototypes[0][50] = torch.nan
    labels = {
        "same": labels_of(20, rows, 3, 0),
        "different": labels_of(20, rows, 4, 1),
        "allowed": ([[i % 3, 7] for i in range(20)], labels_of(20, rows, 9, 2)[1]),
    }
    labels = {name: pair for name, pair in labels.items() if name in names or names == "all"}
    bank = PrototypeBank(it.prototypes, metric=metric, screen=screen, nonfinite="exclude")
    bank.remove(list(range(0, rows, 5)))
    here = torch.arange(rows) % 5 != 0
    labels = {name: (pair[0], pair[1][here]) for name, pair in labels.items()}
    left = it.replace(prototypes=[it.prototypes[0][here]], nonfinite="exclude")
    as_lists = {
        name: (torch.as_tensor(mine).tolist(), theirs.tolist())
        for name, (mine, theirs) in labels.items()
    }
    dense = Conditions(as_lists).masked(left)
    assert_exact(bank.topk(it.queries, 9, **labels), dense)
    hits, found = bank.search(it.queries, 9, **labels), bank.topk(it.queries, 9, **labels)
    assert torch.equal(hits.ids, torch.where(found.indices < 0, -1, bank.ids[found.indices]))
    assert isinstance(dense.mask, torch.Tensor)
    expected = bank.within(it.queries, -2.0, mask=dense.mask, limit=30)
    assert all(map(torch.equal, bank.within(it.queries, -2.0, limit=30, **labels), expected))
    counts = bank.count_within(it.queries, -2.0, **labels)
    assert torch.equal(counts, bank.count_within(it.queries, -2.0, mask=dense.mask))
    before = bank.stats.queries
    bank.topk(it.queries, 9, **labels)
    assert bank.stats.queries >= before + 20
    assert bank.stats.certified + bank.stats.repaired == bank.stats.queries


def test_ten_thousand_labels_have_few_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    searches = []
    search = sources.search_vectors
    monkeypatch.setattr(
        sources, "search_vectors", lambda *about: searches.append(about) or search(*about)
    )
    labels = torch.arange(10_000), torch.arange(50_000) % 10_000
    it = plain(10_000, 50_000, 3)
    scores, indices = topk(it.queries, it.prototypes, 3, same=labels)
    assert bool((indices % 10_000 == torch.arange(10_000)[:, None]).all())
    assert len(searches) < 100
    of_one = topk(it.queries[77:78], it.prototypes, 3, mask=labels[1] == 77)
    assert torch.equal(scores[77:78], of_one.scores)
    assert torch.equal(indices[77:78], of_one.indices)


@pytest.mark.parametrize("way", ["listed", "whole"], indirect=True)
@pytest.mark.parametrize("name", ["same", "different", "allowed"])
@pytest.mark.parametrize("source", ["vectors", "bank"])
def test_within_the_workspace(
    name: str, source: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mask of pairs would take 60 MiB; labels take some numbers for each prototype."""
    monkeypatch.setattr(kernels, "WORKSPACE_BYTES", 16 * MIB)
    it, rows = plain(2000, 30_000, 10), 30_000
    mine, theirs = labels_of(2000, rows, 50, 0)
    labels = {name: (mine[:, None].tolist() if name == "allowed" else mine, theirs)}
    bank = PrototypeBank(it.prototypes)
    if source == "bank":
        bank.topk(it.queries, 1)  # what a bank keeps from its first search on

    def search() -> object:
        if source == "bank":
            return bank.topk(it.queries, 10, **labels)
        return topk(it.queries, it.prototypes, 10, **labels)

    topk(it.queries, it.prototypes, 1)
    assert peak_bytes(search) - 2000 * 10 * 12 <= 16 * MIB + 64 * (rows + 2000)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("source", ["vectors", "bank"])
def test_gradients_are_those_of_a_dense_formula(metric: str, source: str) -> None:
    it = plain(6, 40, 12, metric)
    same = labels_of(6, 40, 4, 0)
    queries, (prototypes,) = it.queries.requires_grad_(), it.prototypes
    if source == "bank":
        scores, indices = PrototypeBank(prototypes, metric=metric).topk(queries, 12, same=same)
    else:
        prototypes.requires_grad_()
        scores, indices = topk(queries, prototypes, 12, metric=metric, same=same)
    there = indices >= 0
    assert not there.all()
    weights = torch.linspace(1, 2, scores.numel()).view_as(scores)
    wanted = [queries] if source == "bank" else [queries, prototypes]
    actual = torch.autograd.grad((scores.masked_fill(~there, 0) * weights).sum(), wanted)
    if metric == "cosine":
        dense = torch.cosine_similarity(queries[:, None], prototypes[None], dim=2)
    elif metric == "dot":
        dense = queries @ prototypes.T
    else:
        dense = -(queries[:, None] - prototypes[None]).square().sum(2)
    chosen = dense.gather(1, indices.clamp(min=0)).masked_fill(~there, 0)
    for mine, autograds in zip(
        actual, torch.autograd.grad((chosen * weights).sum(), wanted), strict=True
    ):
        torch.testing.assert_close(mine, autograds, rtol=1e-4, atol=1e-5)


def test_gradients_in_range() -> None:
    it, same = plain(6, 40, 1), labels_of(6, 40, 4, 0)
    queries = it.queries.requires_grad_()
    mask = same[0][:, None] == same[1]
    found = within(queries, it.prototypes, 0.1, same=same)
    expected = within(queries, it.prototypes, 0.1, mask=mask)
    actual = torch.autograd.grad(found.scores.square().sum(), queries)
    assert torch.equal(*actual, *torch.autograd.grad(expected.scores.square().sum(), queries))


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor, list, tuple, "int8", "uint64"])
def test_labels_of_any_kind(kind: object) -> None:
    it, (mine, theirs) = plain(5, 30, 4), labels_of(5, 30, 3, 0)
    expected = topk(it.queries, it.prototypes, 4, same=(mine, theirs))
    as_kind = (lambda x: np.array(x, dtype=kind)) if isinstance(kind, str) else kind
    same = tuple(as_kind(x.tolist()) for x in (mine, theirs))
    assert all(map(torch.equal, topk(it.queries, it.prototypes, 4, same=same), expected))
    sets = [as_kind([label]) for label in mine.tolist()]
    found = topk(it.queries, it.prototypes, 4, allowed=(sets, same[1]))
    assert all(map(torch.equal, found, expected))
    found = topk(it.queries.numpy(), it.prototypes[0].numpy(), 4, same=same)
    assert isinstance(found.indices, np.ndarray)
    assert np.array_equal(found.indices, expected.indices.numpy())


def test_sets_may_be_sets_and_rows_of_a_matrix() -> None:
    it, (mine, theirs) = plain(5, 30, 4), labels_of(5, 30, 3, 0)
    expected = topk(it.queries, it.prototypes, 4, same=(mine, theirs))
    for sets in ([{label} for label in mine.tolist()], mine[:, None], mine[:, None].numpy()):
        found = topk(it.queries, it.prototypes, 4, allowed=(sets, theirs))
        assert all(map(torch.equal, found, expected))


@pytest.mark.usefixtures("way")
def test_nothing_to_search() -> None:
    none, some = torch.empty(0, 4), torch.ones(3, 4)
    assert topk(none, some, 2, same=([], [1, 2, 3])).indices.shape == (0, 2)
    assert topk(some, none, 0, same=([1, 2, 3], [])).indices.shape == (3, 0)
    assert topk(some, some, 0, allowed=([[]] * 3, [1, 2, 3])).indices.shape == (3, 0)
    assert topk(some, some, 2, allowed=([[]] * 3, [1, 2, 3])).indices.tolist() == [[-1, -1]] * 3
    assert topk(some, some, 2, same=([4] * 3, [1, 2, 3])).indices.tolist() == [[-1, -1]] * 3
    assert within(none, some, 0.0, same=([], [1, 2, 3])).offsets.tolist() == [0]
    assert within(some, none, 0.0, same=([1, 2, 3], [])).offsets.tolist() == [0] * 4
    bank = PrototypeBank(none)
    assert bank.topk(some, 0, different=([1, 2, 3], [])).indices.shape == (3, 0)
    assert bank.count_within(some, 0.0, different=([1, 2, 3], [])).tolist() == [0] * 3


@pytest.mark.parametrize("bad", ["queries", "prototypes"])
def test_what_is_not_finite_is_refused_by_its_number(bad: str) -> None:
    it = plain(5, 30, 2)
    (it.queries if bad == "queries" else it.prototypes[0])[4] = torch.nan
    same = [0, 1, 0, 1, 2], [0, 1] * 15  # neither has a partner
    with pytest.raises(ValueError, match=f"{bad} must be finite.* in row 4"):
        topk(it.queries, it.prototypes, 2, same=same)
    with pytest.raises(ValueError, match=f"{bad} must be finite.* in row 4"):
        within(it.queries, it.prototypes, 0.0, same=same)
    if bad == "queries":
        with pytest.raises(ValueError, match=r"queries must be finite.* in row 4"):
            PrototypeBank(it.prototypes).topk(it.queries, 2, same=same)


THREE, FIVE = [0, 1, 2], [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"same": 5}, TypeError, "same must be a pair (query_labels, prototype_labels); got int"),
        ({"different": torch.ones(2, 5)}, TypeError, "different must be a pair"),
        ({"same": (THREE, FIVE, FIVE)}, TypeError, "prototype_labels); got tuple of length 3"),
        ({"same": (FIVE, THREE)}, ValueError, "same[0] must have shape (3,), one for each of"),
        ({"same": (THREE, THREE)}, ValueError, "same[1] must have shape (5,)"),
        ({"same": (THREE, [FIVE])}, ValueError, "one for each of the prototypes; got (1, 5)"),
        ({"different": ([0.0, 1, 2], FIVE)}, TypeError, "different[0] must be integers; got torch"),
        ({"same": ([True] * 3, FIVE)}, TypeError, "same[0] must be integers; got torch.bool"),
        ({"same": (THREE, list("abcde"))}, TypeError, "same[1] must be integers; got ['a', 'b'"),
        ({"same": (THREE, None)}, TypeError, "same[1] must be a tensor"),
        ({"same": (np.full(3, 2**63, np.uint64), FIVE)}, ValueError, "same[0] must be below 2^63"),
        ({"allowed": (5, FIVE)}, TypeError, "allowed[0] must be a sequence of 3 sets of labels"),
        ({"allowed": ("abc", FIVE)}, TypeError, "allowed[0] must be a sequence of 3 sets"),
        ({"allowed": ([[1]], FIVE)}, ValueError, "allowed[0] must have 3 sets of labels"),
        ({"allowed": ([[1], [0.5], [2]], FIVE)}, TypeError, "allowed[0][1] must be integers"),
        ({"allowed": (THREE, FIVE)}, TypeError, "allowed[0][0] must be"),
        ({"allowed": ([[1]] * 3, THREE)}, ValueError, "allowed[1] must have shape (5,)"),
        ({"groups": THREE}, ValueError, "groups must have shape (5,), one for each of the proto"),
        ({"groups": [0.5] * 5}, TypeError, "groups must be integers; got torch.float64"),
        ({"groups": FIVE, "per_group": 0}, ValueError, "per_group must be at least 1; got 0"),
        ({"groups": FIVE, "per_group": 1.0}, TypeError, "per_group must be an int; got float"),
        ({"per_group": 2}, ValueError, "per_group must be given with groups; got 2 without"),
    ],
)
def test_refusals(options: dict, error: type, message: str) -> None:
    queries, prototypes = torch.randn(3, 4), torch.randn(5, 4)
    bank = PrototypeBank(prototypes)
    with pytest.raises(error, match=re.escape(message)):
        topk(queries, prototypes, 2, **options)
    with pytest.raises(error, match=re.escape(message)):
        bank.topk(queries, 2, **options)
    with pytest.raises(error, match=re.escape(message)):
        bank.search(queries, 0, **options)
    if not {"groups", "per_group"} & set(options):
        with pytest.raises(error, match=re.escape(message)):
            within(queries, prototypes, 0.5, **options)
        with pytest.raises(error, match=re.escape(message)):
            bank.count_within(queries, 0.5, **options)


def test_transforms_are_refused_in_words() -> None:
    prototypes, same = torch.randn(5, 4), (THREE, FIVE)
    queries = torch.randn(2, 3, 4)
    with pytest.raises(NotImplementedError, match=r"do not work under torch\.func"):
        torch.vmap(lambda q: topk(q, prototypes, 2, same=same).scores)(queries)
    with pytest.raises(NotImplementedError, match=r"do not work under torch\.func"):
        torch.func.grad(lambda q: topk(q, prototypes, 2, same=same).scores.sum())(queries[0])
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(queries[0], torch.randn(3, 4))
        with pytest.raises(NotImplementedError, match="has no forward AD"):
            topk(dual, prototypes, 2, same=same)
    with pytest.raises(NotImplementedError, match="do not work on meta"):
        topk(queries[0].to("meta"), prototypes.to("meta"), 2, same=same)


def test_compilers_are_refused_in_words() -> None:
    prototypes, same = torch.randn(5, 4), (torch.tensor(THREE), torch.tensor(FIVE))

    class Search(torch.nn.Module):
        def forward(self, queries: torch.Tensor) -> torch.Tensor:
            return topk(queries, prototypes, 2, same=same).indices

    queries = torch.randn(3, 4)
    with pytest.raises(Exception, match=r"do not work in torch\.export"):
        torch.compile(Search(), fullgraph=True, backend="eager")(queries)
    with pytest.raises(Exception, match=r"do not work in torch\.export"):
        torch.export.export(Search(), (queries,))


def test_the_oracle_by_hand() -> None:
    mask = reference.label_mask(2, 3, same=([0, 1], [0, 1, 1]), allowed=([[5], [6, 7]], [5, 6, 8]))
    assert mask.tolist() == [[True, False, False], [False, True, False]]
