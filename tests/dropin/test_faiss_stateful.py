"""Any sequence of calls, made to FAISS and to ours."""

import numpy as np
import pytest
import torch
from faiss_unpatched import faiss_unpatched  # noqa: F401
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from torch import Tensor

import flashmatch.adapters.faiss as ours

faiss = pytest.importorskip("faiss")
from faiss_rounding import KINDS, METRICS, Problem, assert_agree, drawn  # noqa: E402


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
