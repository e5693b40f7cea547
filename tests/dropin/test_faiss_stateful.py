"""Any sequence of calls, made to FAISS and to ours."""

import io
import tempfile

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from torch import Tensor

import flashmatch.adapters.faiss as ours

faiss = pytest.importorskip("faiss")
from faiss_rounding import KINDS, METRICS, Problem, assert_agree, drawn  # noqa: E402

LIBRARIES = faiss, ours
FLAT = {"dot": "IndexFlatIP", "l2": "IndexFlatL2"}
FAR = 2**62
SELECTORS = {
    "batch": lambda lib, inside, outside: lib.IDSelectorBatch(inside.view(np.uint64)),
    "array": lambda lib, inside, outside: lib.IDSelectorArray(inside),
    "not": lambda lib, inside, outside: lib.IDSelectorNot(lib.IDSelectorBatch(outside)),
    "or": lambda lib, inside, outside: lib.IDSelectorOr(
        lib.IDSelectorBatch(inside[::2]), lib.IDSelectorArray(inside[1::2])
    ),
    "and": lambda lib, inside, outside: lib.IDSelectorAnd(
        lib.IDSelectorAll(), lib.IDSelectorBatch(inside)
    ),
    "xor": lambda lib, inside, outside: lib.IDSelectorXOr(
        lib.IDSelectorBatch(outside), lib.IDSelectorAll()
    ),
}


def written_and_read(library, index, way: str):
    """The index out of its own library's bytes."""
    if way == "bytes":
        return library.deserialize_index(library.serialize_index(index), 0)
    if way == "file":
        with tempfile.TemporaryDirectory() as folder:
            library.write_index(index, f"{folder}/index", 0)
            return library.read_index(f"{folder}/index", library.IO_FLAG_MMAP)
    if way == "vectors":
        writer, reader = library.VectorIOWriter(), library.VectorIOReader()
        library.write_index(index, writer)
        library.copy_array_to_vector(library.vector_to_array(writer.data), reader.data)
        return library.read_index(reader)
    stream = io.BytesIO()
    writer = library.PyCallbackIOWriter(stream.write, 999)
    writer = writer if way == "callbacks" else library.BufferedIOWriter(writer, 77)
    library.write_index(index, writer)
    del writer  # FAISS's buffer is written only now
    stream.seek(0)
    reader = library.PyCallbackIOReader(stream.read, 1000)
    return library.read_index(reader if way == "callbacks" else library.BufferedIOReader(reader))


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
        self.pair = [self._made(library) for library in LIBRARIES]

    @rule(
        size=st.one_of(st.integers(0, 3), st.integers(0, 300)),
        kind=st.sampled_from(KINDS),
        as_codes=st.booleans(),
    )
    def add(self, size: int, kind: str, as_codes: bool) -> None:
        fresh = drawn(kind, size, self.channels, self.generator)
        self._append(fresh, self._add_to(self.pair, fresh, as_codes))

    @rule(share=st.sampled_from((0.0, 0.02, 0.5, 1.0)), by=st.sampled_from(("ids", "range", "not")))
    def remove(self, share: float, by: str) -> None:
        gone = torch.rand(len(self.ids), generator=self.generator).numpy() < share
        if by == "range":
            low, high = np.quantile(self.ids, [share / 3, share]) if len(self.ids) else (0, 0)
            low, high = (int(np.clip(end, -FAR, FAR)) for end in (low, high))
            gone = (self.ids >= low) & (self.ids < high)
            chosen = [lib.IDSelectorRange(low, high) for lib in LIBRARIES]
        elif by == "not":
            kept = self.ids[~gone].view(np.uint64)
            chosen = [lib.IDSelectorNot(lib.IDSelectorBatch(kept)) for lib in LIBRARIES]
        else:
            unknown = np.array([10**9, -(10**9)])
            chosen = [np.concatenate([self.ids[gone], unknown]).view(np.uint64)] * 2
        counts = [i.remove_ids(what) for i, what in zip(self.pair, chosen, strict=True)]
        assert counts == [gone.sum()] * 2
        self.rows, left = self.rows[~torch.from_numpy(gone)], self.ids[~gone]
        self.ids = np.arange(len(left)) if self.kind == "IndexFlat" else left

    @rule(
        count=st.sampled_from((1, 3, 25)),
        k=st.one_of(st.integers(1, 9), st.integers(1, 500)),
        selector=st.sampled_from(("none", *SELECTORS)),
        share=st.sampled_from((0.0, 0.3, 1.0)),
        kind=st.sampled_from(KINDS),
    )
    def search(self, count: int, k: int, selector: str, share: float, kind: str) -> None:
        queries = drawn(kind, count, self.channels, self.generator)
        params, mask = self._selected(selector, share)
        found = [
            index.search(queries.numpy(), k, params=given)
            for index, given in zip(self.pair, params, strict=True)
        ]
        positions = [(values, self._positions(labels)) for values, labels in found]
        assert_agree(Problem(queries, self.rows, self.metric, mask), *positions)
        if mask is None:
            assert (self.pair[1].assign(queries.numpy(), k) == found[1][1]).all()

    @rule(
        count=st.sampled_from((1, 25)),
        quantile=st.floats(0, 1),
        selector=st.sampled_from(("none", *SELECTORS)),
        kind=st.sampled_from(KINDS),
    )
    def range_search(self, count: int, quantile: float, selector: str, kind: str) -> None:
        if len(self.rows) == 0:
            return
        queries = drawn(kind, count, self.channels, self.generator)
        problem = Problem(queries, self.rows, self.metric)
        radius = float((problem.sign * problem.scores).quantile(quantile).float())
        (params, mask), tables = self._selected(selector, 0.5), []
        for index, given in zip(self.pair, params, strict=True):
            lims, values, labels = index.range_search(queries.numpy(), radius, params=given)
            assert lims.dtype == np.uint64
            table = np.full(problem.scores.shape, np.nan, dtype=np.float32)
            at = np.repeat(np.arange(count), np.diff(lims.astype(int))), self._positions(labels)
            table[at] = values
            assert len(values) == (~np.isnan(table)).sum()
            tables.append(torch.from_numpy(table))
        theirs, mine = tables
        if mask is not None:
            assert all(table[:, ~mask].isnan().all() for table in tables)
            theirs, mine, rows = theirs[:, mask], mine[:, mask], self.rows[mask]
            problem = Problem(queries, rows, self.metric, torch.ones(len(rows), dtype=torch.bool))
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
                got = index.reconstruct_batch(self.ids[some.numpy()].view(np.uint64))
                assert np.array_equal(got, self.rows[some].numpy())
                for i in some[:2].tolist():
                    assert np.array_equal(index.reconstruct(int(self.ids[i])), self.rows[i])

    @rule()
    def inspect(self) -> None:
        """What C++'s vectors hold."""
        for library, index in zip(LIBRARIES, self.pair, strict=True):
            flat = index
            if self.kind != "IndexFlat":
                flat = library.downcast_index(index.index)
                assert index.id_map.size() == len(self.ids)
                assert np.array_equal(library.vector_to_array(index.id_map), self.ids)
                assert [index.id_map.at(i) for i in range(len(self.ids))] == self.ids.tolist()
            if self.kind == "IndexIDMap2":
                index.construct_rev_map()  # which FAISS leaves as it is in ``reset``
                index.check_consistency()
            codes = library.vector_to_array(flat.codes)
            assert codes.tobytes() == self.rows.numpy().tobytes()
            assert flat.codes.size() == len(codes) == flat.ntotal * flat.code_size

    @rule(way=st.sampled_from(("bytes", "callbacks", "buffers", "vectors", "file", "exchange")))
    def write_and_read(self, way: str) -> None:
        if way == "exchange":  # each reads the other's
            theirs, mine = (
                lib.serialize_index(i) for lib, i in zip(LIBRARIES, self.pair, strict=True)
            )
            self.pair = [faiss.deserialize_index(mine), ours.deserialize_index(theirs)]
        else:
            self.pair = [
                written_and_read(lib, index, way)
                for lib, index in zip(LIBRARIES, self.pair, strict=True)
            ]
        name = FLAT[self.metric] if self.kind == "IndexFlat" else self.kind
        assert [type(index).__name__ for index in self.pair] == [name] * 2

    @rule(trial=st.integers(0, 2**32))
    def damage(self, trial: int) -> None:
        """What is written here and changed in one bit is refused, and everything shorter."""
        data = bytearray(ours.serialize_index(self.pair[1]))
        damaged, at = data.copy(), trial % len(data)
        damaged[at] ^= 1 << trial % 8
        for wrong in (bytes(damaged), bytes(data[:at])):
            with pytest.raises(RuntimeError, match="undamaged"):
                ours.deserialize_index(wrong)

    @rule()
    def clone(self) -> None:
        before = self.pair
        self.pair = [lib.clone_index(i) for lib, i in zip((faiss, ours), before, strict=True)]
        for index in before:
            index.reset()

    @rule(size=st.integers(0, 50))
    def merge(self, size: int) -> None:
        fresh = drawn("gaussian", size, self.channels, self.generator)
        others = [self._made(library) for library in LIBRARIES]
        ids = self._add_to(others, fresh, as_codes=False)
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
        flat = getattr(library, FLAT[self.metric])(self.channels)
        return flat if self.kind == "IndexFlat" else getattr(library, self.kind)(flat)

    def _add_to(self, pair: list, fresh: Tensor, as_codes: bool) -> np.ndarray:
        """Into both libraries': the ids that it then has, negative ones too."""
        if self.kind != "IndexFlat":
            ids = self._fresh_ids(len(fresh))
            for index in pair:
                index.add_with_ids(fresh.numpy(), ids.view(np.uint64))
            return ids
        for index in pair:
            if as_codes:
                index.add_sa_codes(index.sa_encode(fresh.numpy()))
            else:
                index.add(fresh.numpy())
        return np.arange(len(self.ids), len(self.ids) + len(fresh))

    def _fresh_ids(self, count: int) -> np.ndarray:
        """Small ones, hashes of 64 bits, or the ends of int64; none twice, and none is -1."""
        kind = int(torch.randint(3, (), generator=self.generator))
        random = np.random.default_rng(int(torch.randint(2**62, (), generator=self.generator)))
        low, high = ((-(10**6), 10**6), (-(2**63), 2**63 - 1), (2**63 - 10**6, 2**63 - 1))[kind]
        ids = np.unique(random.integers(low, high, 2 * count + 9, endpoint=True))
        ids = np.setdiff1d(ids, np.append(self.ids, -1))
        return random.permutation(ids)[:count]

    def _selected(self, selector: str, share: float) -> tuple[list, Tensor | None]:
        """Search parameters for both, and which rows they let through."""
        if selector == "none":
            return [None, None], None
        mask = torch.rand(len(self.rows), generator=self.generator) < share
        inside, outside = self.ids[mask.numpy()], self.ids[~mask.numpy()]
        select = SELECTORS[selector]
        return [lib.SearchParameters(sel=select(lib, inside, outside)) for lib in LIBRARIES], mask

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
