"""Every call as a user of FAISS makes it, beside FAISS, on small whole numbers.

FAISS's float32 sums of those are exact, so distances must be equal bit for bit, and labels wherever
no two rows tie.
"""

import copy
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch

import flashmatch.adapters.faiss as ours

faiss = pytest.importorskip("faiss")

NAMES = ("IndexFlatIP", "IndexFlatL2")
KINDS = pytest.mark.parametrize("kind", [*NAMES, "IDMap,Flat", "IDMap2,Flat"])
WORST = np.finfo(np.float32).max
RNG = np.random.default_rng(0)
QUERIES = RNG.integers(-200, 200, (8, 4)).astype(np.float32)
ROWS = RNG.integers(-500, 500, (48, 4)).astype(np.float32)
IDS = RNG.permutation(1000)[:48] - 300  # negative ones among them


def made(library, kind: str, ids: np.ndarray = IDS):
    """An index with ROWS in it."""
    if kind in NAMES:
        index = getattr(library, kind)(4)
        index.add(ROWS)
    else:
        index = library.index_factory(4, kind, library.METRIC_INNER_PRODUCT)
        index.add_with_ids(ROWS, ids)
    return index


def assert_same(call: Callable[..., object]) -> None:
    """``call(library)`` gives both times arrays of equal type, dtype, shape and values."""
    results = [call(library) for library in (faiss, ours)]
    pairs = zip(*results, strict=True) if isinstance(results[0], tuple) else [results]
    for theirs, mine in pairs:
        assert type(mine) is type(theirs)
        np.testing.assert_array_equal(mine, theirs, strict=isinstance(theirs, np.ndarray))


def test_no_ties() -> None:
    """So that every test below may compare labels."""
    for table in (QUERIES @ ROWS.T, np.square(QUERIES[:, None] - ROWS).sum(2)):
        assert all(len(np.unique(row)) == len(row) for row in table)


@KINDS
class TestIndexes:
    @pytest.mark.parametrize("k", [1, 5, 48, 60])
    def test_search_pads_beyond_ntotal(self, kind: str, k: int) -> None:
        assert_same(lambda library: made(library, kind).search(QUERIES, k))
        assert_same(lambda library: made(library, kind).assign(QUERIES, k))

    @pytest.mark.parametrize(
        "given",
        [
            QUERIES.astype(np.float64),
            QUERIES.astype(np.int32),
            np.asfortranarray(QUERIES),
            np.repeat(QUERIES, 2, 0)[::2],
            QUERIES[:0],
            np.broadcast_to(QUERIES[0], (3, 4)),  # read-only
        ],
    )
    def test_any_numbers(self, kind: str, given: np.ndarray) -> None:
        assert_same(lambda library: made(library, kind).search(given, 3))

    def test_writes_where_it_is_told(self, kind: str) -> None:
        index = made(ours, kind)
        values, labels = np.empty((8, 5), dtype=np.float32), np.empty((8, 5), dtype=np.int64)
        found = index.search(QUERIES, 5, D=values, I=labels)
        assert found[0] is values
        assert found[1] is labels
        expected = made(faiss, kind).search(QUERIES, 5)
        np.testing.assert_array_equal(values, expected[0])
        np.testing.assert_array_equal(labels, expected[1])

    def test_search_and_reconstruct(self, kind: str) -> None:
        if kind == "IDMap,Flat":  # cannot, in FAISS
            with pytest.raises(RuntimeError, match="IndexIDMap2"):
                made(ours, kind).search_and_reconstruct(QUERIES, 3)
            return
        assert_same(lambda library: made(library, kind).search_and_reconstruct(QUERIES, 60))

    def test_range_search(self, kind: str) -> None:
        table = np.square(QUERIES[:, None] - ROWS).sum(2) if "L2" in kind else QUERIES @ ROWS.T
        for radius in (*np.quantile(table, (0, 0.01, 0.5, 1)), table[3, 7], np.inf, -np.inf):
            assert_same(lambda library: made(library, kind).range_search(QUERIES, radius))  # noqa: B023

    def test_range_search_asks_again_for_more_than_64(self, kind: str) -> None:
        def call(library):
            index = made(library, kind)
            rows = np.arange(-2000.0, 2000).reshape(1000, 4)
            index.add(rows) if kind in NAMES else index.add_with_ids(rows, np.arange(1000))
            return index.range_search(QUERIES, 5e5 if "L2" in kind else 100.0)

        lims = call(ours)[0]
        assert 64 < np.diff(lims.astype(int)).max() < 1048
        assert_same(call)

    @pytest.mark.parametrize(
        "selector",
        [
            lambda library: library.IDSelectorRange(-50, 30),
            lambda library: library.IDSelectorBatch(IDS[3:9]),
            lambda library: library.IDSelectorNot(library.IDSelectorArray(np.arange(20))),
            lambda library: library.IDSelectorBitmap(np.array([170, 255, 3], dtype=np.uint8)),
            lambda library: library.IDSelectorBatch([]),
        ],
    )
    def test_selectors(self, kind: str, selector: Callable) -> None:
        def params(library):
            return library.SearchParameters(sel=selector(library))

        def after_removal(library):
            index = made(library, kind)
            return index.remove_ids(selector(library)), *index.search(QUERIES, 48)

        assert_same(lambda library: made(library, kind).search(QUERIES, 9, params=params(library)))
        assert_same(
            lambda library: made(library, kind).range_search(QUERIES, 50.0, params=params(library))
        )
        assert_same(after_removal)

    def test_remove_ids(self, kind: str) -> None:
        def call(library):
            index = made(library, kind)
            gone = (IDS[:5], np.arange(7), np.array([3, 3, 9999]), np.array([]))
            counts = [index.remove_ids(which) for which in gone]
            found = index.search(QUERIES, 48)
            index.reset()
            return np.array(counts), *found, index.ntotal, *index.search(QUERIES, 2)

        assert_same(call)

    def test_torch_in_torch_out(self, kind: str) -> None:
        index = made(ours, kind)
        arrays = index.search(QUERIES, 60)
        tensors = index.search(torch.from_numpy(QUERIES).requires_grad_(), 60)
        for array, tensor in zip(arrays, tensors, strict=True):
            assert torch.equal(tensor, torch.from_numpy(array))
            assert not tensor.requires_grad
        assert torch.equal(index.assign(torch.from_numpy(QUERIES), 2), tensors[1][:, :2])
        assert all(torch.is_tensor(x) for x in index.range_search(torch.from_numpy(QUERIES), 9.0))
        out = torch.empty(8, 60), torch.empty(8, 60, dtype=torch.int64)
        index.search(torch.from_numpy(QUERIES), 60, D=out[0], I=out[1])
        assert torch.equal(out[1], tensors[1])

    @pytest.mark.parametrize(
        "way", [ours.clone_index, copy.deepcopy, lambda i: pickle.loads(pickle.dumps(i))]
    )
    def test_copies(self, kind: str, way: Callable) -> None:
        index = made(ours, kind)
        expected = index.search(QUERIES, 4)
        other = way(index)
        index.reset()
        assert type(other) is type(index)
        np.testing.assert_array_equal(other.search(QUERIES, 4)[1], expected[1])

    def test_attributes(self, kind: str) -> None:
        for name in ("d", "ntotal", "is_trained", "metric_type", "verbose"):
            assert getattr(made(ours, kind), name) == getattr(made(faiss, kind), name)
        index = made(ours, kind)
        index.train(ROWS)
        index.verbose = True
        with pytest.raises(AttributeError):
            index.nprobe = 3
        assert "48" in repr(index)


@pytest.mark.parametrize("kind", [*NAMES, "IDMap2,Flat"])
def test_reconstruct(kind: str) -> None:
    keys = np.array([5, 40, 5]) if kind in NAMES else IDS[[5, 40, 5]]
    for out in (None, np.empty((3, 4), dtype=np.float32)):
        assert_same(lambda library: made(library, kind).reconstruct_batch(keys, out))  # noqa: B023
    assert_same(lambda library: made(library, kind).reconstruct(int(keys[0])))
    ids = np.arange(10, 58)
    first = 3 if kind in NAMES else 13
    assert_same(lambda library: made(library, kind, ids).reconstruct_n(first, 7))
    if kind in NAMES:
        assert_same(lambda library: made(library, kind).reconstruct_n())
        assert_same(lambda library: made(library, kind).reconstruct_n(40))

    def after_removal(library):
        index = made(library, kind)
        index.remove_ids(keys[:1])
        return index.reconstruct_batch(keys[1:2])

    assert_same(after_removal)


@pytest.mark.parametrize("kind", ["IndexIDMap", "IndexIDMap2"])
def test_ids_may_repeat(kind: str) -> None:
    """A search lists each, a removal takes all, and the last one is reconstructed."""

    def call(library):
        index = getattr(library, kind)(library.IndexFlatL2(4))
        index.add_with_ids(ROWS[:3], np.array([7, 8, 7]))
        index.add_with_ids(ROWS[3:5], np.array([7, 9]))
        first = index.search(QUERIES, 5)
        last = (index.reconstruct(7),) if kind == "IndexIDMap2" else ()
        index.add_with_ids(ROWS[5:6], np.array([9]))
        last += (index.reconstruct(9),) if kind == "IndexIDMap2" else ()
        removed = index.remove_ids(np.array([7]))
        again = index.search(QUERIES, 5)
        return *first, *last, removed, *again, library.vector_to_array(index.id_map)

    assert_same(call)


def test_merge() -> None:
    def flat(library):
        one, other = made(library, "IndexFlatIP"), library.IndexFlatIP(4)
        other.add(ROWS[::-1] + 1000)
        one.merge_from(other)
        return one.ntotal, other.ntotal, one.reconstruct_n(40, 20)

    def with_ids(library):
        one, other = (made(library, "IDMap2,Flat", np.arange(48) + 100 * i) for i in range(2))
        one.merge_from(other, 1000)
        return one.ntotal, other.ntotal, one.reconstruct(1100), library.vector_to_array(one.id_map)

    assert_same(flat)
    assert_same(with_ids)


def test_vectors_are_copied_and_ties_are_stable() -> None:
    rows = np.tile(ROWS[:1], (3, 1))
    index = ours.IndexFlatIP(4)
    for row in rows:
        index.add(row[None])
    rows[:] = 0
    values, labels = index.search(ROWS[:1], 3)
    assert labels.tolist() == [[0, 1, 2]]
    assert values.tolist() == [[float(ROWS[0] @ ROWS[0])] * 3]
    np.testing.assert_array_equal(ours.rev_swig_ptr(index.get_xb(), 8), np.tile(ROWS[0], 2))


def test_the_worst_distance_is_no_match() -> None:
    rows = np.array([[-WORST, 0, 0, 0], [-1, 0, 0, 0]], dtype=np.float32)

    def call(library):
        index = library.IndexFlatIP(4)
        index.add(rows)
        return index.search(np.eye(4, dtype=np.float32)[:1], 2)

    assert_same(call)


@pytest.mark.parametrize("name", NAMES)
def test_nonfinite(name: str) -> None:
    """What overflows float32 is FAISS's; NaN and inf are never found, and find nothing."""
    rows = ROWS[:4].copy()
    rows[1], rows[2, 0] = 1e30, np.nan
    found = []
    for library in (faiss, ours):
        index = getattr(library, name)(4)
        index.add(rows)
        found.append(index.search(rows[:1], 4))
    np.testing.assert_array_equal(found[0][1], found[1][1])
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-6)
    index = getattr(ours, name)(4)
    index.add(np.array([[np.inf, 0, 0, 0], [1, 0, 0, 0]], dtype=np.float32))
    values, labels = index.search(np.array([[1, 0, 0, 0], [np.nan, 0, 0, 0]]), 2)
    assert labels.tolist() == [[1, -1], [-1, -1]]
    assert (np.abs(values[labels < 0]) == WORST).all()
    assert index.range_search(np.full((1, 4), np.nan), 0.0)[0].tolist() == [0, 0]
