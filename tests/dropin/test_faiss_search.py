"""Searches beside FAISS's, over random shapes and any sequence of calls.

Ours must be the exact answer, which ``verify`` settles. FAISS sums in float32: its answer must be
one that such sums can give, by the textbook bound of their rounding, and differ from ours nowhere
else.
"""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from features import features
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from torch import Tensor

import flashmatch
import flashmatch.adapters.faiss as ours

faiss = pytest.importorskip("faiss")

pytestmark = pytest.mark.hypothesis
METRICS = {"dot": faiss.METRIC_INNER_PRODUCT, "l2": faiss.METRIC_L2}
KINDS = ("gaussian", "integers", "relu", "heavy", "clustered", "identical", "zeros", "pixels")
WORST = np.finfo(np.float32).max


@dataclass(frozen=True)
class Problem:
    """All pairs: exact scores (Q, M), and how far FAISS's may be from them."""

    queries: Tensor
    prototypes: Tensor
    metric: str
    mask: Tensor | None = None  # (M,)

    @property
    def sign(self) -> int:
        return 1 if self.metric == "dot" else -1

    @property
    def scores(self) -> Tensor:
        q, p = self.queries.double(), self.prototypes.double()
        return q @ p.T if self.metric == "dot" else -(q[:, None] - p).square().sum(2)

    @property
    def error(self) -> Tensor:
        """(Q, M): gamma_n = n u / (1 - n u) times the sum of what is added, whatever the order.

        Source: Higham, Accuracy and Stability of Numerical Algorithms, section 3.1. FAISS takes
        |q|^2 + |p|^2 - 2 q.p for the distance where queries are many, unless there is a selector.
        """
        q, p = self.queries.double(), self.prototypes.double()
        expanded = len(q) >= faiss.cvar.distance_compute_blas_threshold and self.mask is None
        if self.metric == "dot":
            size, roundings = q.abs() @ p.abs().T, q.shape[1]
        elif expanded:
            squares = q.square().sum(1)[:, None] + p.square().sum(1)
            size, roundings = squares + 2 * (q.abs() @ p.abs().T), q.shape[1] + 2
        else:
            size, roundings = -self.scores, q.shape[1] + 2
        unit = roundings * 2.0**-24
        underflow = q.shape[1] * 2.0**-126
        return size * (unit / (1 - unit)) * (1 + 1e-6) + underflow  # 1e-6: this very evaluation

    @property
    def allowed(self) -> Tensor:
        """(Q, M) bool."""
        shape = (len(self.queries), len(self.prototypes))
        return torch.ones(shape, dtype=torch.bool) if self.mask is None else self.mask.expand(shape)


def assert_attainable(problem: Problem, found: tuple[np.ndarray, np.ndarray]) -> None:
    """Distances and positions that FAISS's sums can give."""
    values, indices = (torch.from_numpy(x) for x in found)
    scores, error, allowed = problem.scores, problem.error, problem.allowed
    there = indices >= 0
    assert torch.equal(there.sum(1), allowed.sum(1).clamp(max=indices.shape[1]))
    assert not (there[:, 1:] & ~there[:, :-1]).any()  # empty ranks come last
    assert (values[~there] == -problem.sign * WORST).all()
    assert (problem.sign * values.diff() <= 0).all()
    listed = torch.zeros(len(indices), allowed.shape[1] + 1, dtype=torch.int64)
    listed.scatter_add_(1, indices.masked_fill(~there, allowed.shape[1]), there.long())
    listed = listed[:, :-1]
    assert (listed <= allowed).all()  # none twice, none that may not match
    rows, ranks = there.nonzero(as_tuple=True)
    pairs = (rows, indices[rows, ranks])
    assert ((problem.sign * values[rows, ranks] - scores[pairs]).abs() <= error[pairs]).all()
    if allowed.shape[1]:
        last = (scores + error).masked_fill(listed == 0, torch.inf).amin(1)
        left_out = (scores - error).masked_fill(~allowed | (listed > 0), -torch.inf).amax(1)
        assert (left_out <= last).all()


def assert_agree(
    problem: Problem,
    theirs: tuple[np.ndarray, np.ndarray],
    mine: tuple[np.ndarray, np.ndarray],
) -> None:
    """FAISS's answer is attainable, ours exact; they differ where FAISS's rounding lets them."""
    assert_attainable(problem, theirs)
    values, indices = (torch.from_numpy(x) for x in mine)
    assert (values[indices < 0] == -problem.sign * WORST).all()
    matches = (problem.sign * values).masked_fill(indices < 0, -torch.inf), indices
    assert flashmatch.verify(
        problem.queries, problem.prototypes, matches, metric=problem.metric, mask=problem.mask
    )
    rows, ranks = np.nonzero(theirs[1] != mine[1])
    if len(rows) == 0:
        return
    scores, error = problem.scores, problem.error.masked_fill(~problem.allowed, 0).amax(1, True)
    apart = scores[rows, theirs[1][rows, ranks]] - scores[rows, mine[1][rows, ranks]]
    assert (apart.abs() <= 2 * error[rows, 0]).all()  # each list is at most one error off its ranks


def drawn(kind: str, rows: int, channels: int, generator: torch.Generator) -> Tensor:
    return features(kind, rows, channels, generator).float()


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


class Machine(RuleBasedStateMachine):
    """The same calls to both; ``rows`` and ``ids`` are what either must hold."""

    @initialize(
        seed=st.integers(0, 2**32),
        metric=st.sampled_from(tuple(METRICS)),
        kind=st.sampled_from(("IndexFlat", "IndexIDMap", "IndexIDMap2")),
        channels=st.sampled_from((1, 5, 16)),
    )
    def start(self, seed: int, metric: str, kind: str, channels: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.metric, self.kind, self.channels = metric, kind, channels
        self.rows, self.ids = torch.empty(0, channels), np.empty(0, dtype=np.int64)
        self.pair = [self._made(faiss), self._made(ours)]

    @rule(size=st.one_of(st.integers(0, 3), st.integers(0, 300)), kind=st.sampled_from(KINDS))
    def add(self, size: int, kind: str) -> None:
        fresh = drawn(kind, size, self.channels, self.generator)
        ids, _ = (self._add_to(index, fresh) for index in self.pair)
        self._append(fresh, ids)

    @rule(share=st.sampled_from((0.0, 0.02, 0.5, 1.0)), by=st.sampled_from(("ids", "range")))
    def remove(self, share: float, by: str) -> None:
        gone = torch.rand(len(self.ids), generator=self.generator).numpy() < share
        if by == "range":
            low, high = np.quantile(self.ids, [share / 3, share]) if len(self.ids) else (0, 0)
            gone = (self.ids >= int(low)) & (self.ids < int(high))
            chosen = [lib.IDSelectorRange(int(low), int(high)) for lib in (faiss, ours)]
        else:
            unknown = np.array([10**9, -(10**9)])
            chosen = [np.concatenate([self.ids[gone], unknown])] * 2
        counts = [i.remove_ids(what) for i, what in zip(self.pair, chosen, strict=True)]
        assert counts == [gone.sum()] * 2
        self.rows, left = self.rows[~torch.from_numpy(gone)], self.ids[~gone]
        self.ids = np.arange(len(left)) if self.kind == "IndexFlat" else left

    @rule(
        count=st.sampled_from((1, 3, 25)),
        k=st.one_of(st.integers(1, 9), st.integers(1, 500)),
        share=st.sampled_from((None, 0.0, 0.3, 1.0)),
        kind=st.sampled_from(KINDS),
    )
    def search(self, count: int, k: int, share: float | None, kind: str) -> None:
        queries, params = drawn(kind, count, self.channels, self.generator), [None, None]
        mask = None
        if share is not None:
            mask = torch.rand(len(self.rows), generator=self.generator) < share
            chosen = self.ids[mask.numpy()]
            params = [
                lib.SearchParameters(sel=lib.IDSelectorBatch(chosen)) for lib in (faiss, ours)
            ]
        found = [
            index.search(queries.numpy(), k, params=given)
            for index, given in zip(self.pair, params, strict=True)
        ]
        positions = [(values, self._positions(labels)) for values, labels in found]
        assert_agree(Problem(queries, self.rows, self.metric, mask), *positions)
        if mask is None:
            assert (self.pair[1].assign(queries.numpy(), k) == found[1][1]).all()

    @rule(count=st.sampled_from((1, 25)), quantile=st.floats(0, 1), kind=st.sampled_from(KINDS))
    def range_search(self, count: int, quantile: float, kind: str) -> None:
        if len(self.rows) == 0:
            return
        queries = drawn(kind, count, self.channels, self.generator)
        problem = Problem(queries, self.rows, self.metric)
        radius = float((problem.sign * problem.scores).quantile(quantile).float())
        tables = []
        for index in self.pair:
            lims, values, labels = index.range_search(queries.numpy(), radius)
            assert lims.dtype == np.uint64
            table = np.full(problem.scores.shape, np.nan, dtype=np.float32)
            at = np.repeat(np.arange(count), np.diff(lims.astype(int))), self._positions(labels)
            table[at] = values
            assert len(values) == (~np.isnan(table)).sum()
            tables.append(torch.from_numpy(table))
        theirs, mine = tables
        near = (problem.scores - problem.sign * radius).abs() <= problem.error
        assert (theirs.isnan() == mine.isnan())[~near].all()
        exact = (problem.sign * problem.scores).float()
        inside = problem.sign * exact > problem.sign * radius
        settled = (
            exact - mine
        ).abs() <= 1e-6 * exact.abs()  # fp64's own order may differ by an ulp
        assert (settled | mine.isnan()).all()
        assert (~mine.isnan() == inside)[(exact - radius).abs() > 1e-6 * exact.abs()].all()

    @rule()
    def reconstruct(self) -> None:
        if self.kind != "IndexIDMap":
            some = torch.randperm(len(self.ids), generator=self.generator)[:5]
            for index in self.pair:
                got = index.reconstruct_batch(self.ids[some.numpy()])
                assert np.array_equal(got, self.rows[some].numpy())

    @rule()
    def clone(self) -> None:
        before = self.pair
        self.pair = [lib.clone_index(i) for lib, i in zip((faiss, ours), before, strict=True)]
        for index in before:
            index.reset()

    @rule(size=st.integers(0, 50))
    def merge(self, size: int) -> None:
        fresh = drawn("gaussian", size, self.channels, self.generator)
        others = [self._made(faiss), self._made(ours)]
        ids, _ = (self._add_to(other, fresh) for other in others)
        for index, other in zip(self.pair, others, strict=True):
            index.merge_from(other)
            assert other.ntotal == 0
        self._append(fresh, ids)

    @rule()
    def reset(self) -> None:
        for index in self.pair:
            index.reset()
        self.rows, self.ids = self.rows[:0], self.ids[:0]

    @invariant()
    def same_size(self) -> None:
        if hasattr(self, "pair"):
            assert [index.ntotal for index in self.pair] == [len(self.ids)] * 2

    def _made(self, library):
        flat = library.IndexFlat(self.channels, METRICS[self.metric])
        return flat if self.kind == "IndexFlat" else getattr(library, self.kind)(flat)

    def _add_to(self, index, fresh: Tensor) -> np.ndarray:
        """Into either library's: the ids that it then has, negative ones too."""
        if self.kind == "IndexFlat":
            index.add(fresh.numpy())
            return np.arange(len(self.ids), len(self.ids) + len(fresh))
        first = self.ids.max(initial=-7) + 2
        ids = np.arange(first, first + 3 * len(fresh), 3)[::-1].copy()
        ids[ids == -1] = -3  # FAISS means "none" by -1
        index.add_with_ids(fresh.numpy(), ids)
        return ids

    def _append(self, fresh: Tensor, ids: np.ndarray) -> None:
        self.rows, self.ids = torch.cat([self.rows, fresh]), np.concatenate([self.ids, ids])

    def _positions(self, labels: np.ndarray) -> np.ndarray:
        """Of unique ids; -1 stays."""
        order = np.append(self.ids.argsort(), -1)
        known = np.append(self.ids, -1)
        found = order[np.searchsorted(self.ids[order[:-1]], labels)]
        found[labels == -1] = -1
        assert (known[found] == labels).all()
        return found


TestMachine = Machine.TestCase
TestMachine.settings = settings(stateful_step_count=20)
TestMachine.pytestmark = [pytest.mark.hypothesis]
