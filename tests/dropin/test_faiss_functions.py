"""FAISS's functions and selectors, beside FAISS."""

import numpy as np
import pytest
import torch

import flashmatch.adapters.faiss as ours

faiss = pytest.importorskip("faiss")

RNG = np.random.default_rng(0)
QUERIES = RNG.integers(-200, 200, (8, 4)).astype(np.float32)  # exact in FAISS's float32 sums
ROWS = RNG.integers(-500, 500, (48, 4)).astype(np.float32)


@pytest.mark.parametrize("metric", [faiss.METRIC_INNER_PRODUCT, faiss.METRIC_L2])
def test_knn(metric: int) -> None:
    for q, p, k in (
        *((QUERIES, ROWS, k) for k in (0, 1, 60)),
        (QUERIES.tolist(), ROWS.tolist(), 2),
        (QUERIES, ROWS[:0], 2),
    ):
        pairs = zip(faiss.knn(q, p, k, metric), ours.knn(q, p, k, metric=metric), strict=True)
        for theirs, mine in pairs:
            np.testing.assert_array_equal(mine, theirs, strict=True)
    tensors = ours.knn(torch.from_numpy(QUERIES), torch.from_numpy(ROWS), 2, metric)
    assert torch.equal(tensors[1], torch.from_numpy(ours.knn(QUERIES, ROWS, 2, metric)[1]))


@pytest.mark.parametrize("description", ["Flat", "IDMap,Flat", "Flat,IDMap", "IDMap2,Flat"])
def test_factory(description: str) -> None:
    for metric in ((), (faiss.METRIC_L2,), (faiss.METRIC_INNER_PRODUCT,)):
        theirs, mine = (lib.index_factory(4, description, *metric) for lib in (faiss, ours))
        assert type(mine).__name__ == type(theirs).__name__
        assert (mine.d, mine.metric_type) == (theirs.d, theirs.metric_type)
        assert ours.downcast_index(mine) is mine


def test_selector_members() -> None:
    bits, ids = np.array([6, 129], dtype=np.uint8), np.array([-3, 2, 11])

    def selectors(library):
        some, more = library.IDSelectorRange(1, 4), library.IDSelectorBatch(ids)
        return [
            some,
            more,
            library.IDSelectorRange(1, 4, True),
            library.IDSelectorBatch(2, library.swig_ptr(ids)),
            library.IDSelectorArray(ids),
            library.IDSelectorArray(2, library.swig_ptr(ids)),
            library.IDSelectorBitmap(bits),
            library.IDSelectorBitmap(1, library.swig_ptr(bits)),
            library.IDSelectorAll(),
            library.IDSelectorNot(some),
            library.IDSelectorAnd(some, more),
            library.IDSelectorOr(some, more),
            library.IDSelectorXOr(some, more),
        ]

    for theirs, mine in zip(selectors(faiss), selectors(ours), strict=True):
        candidates = [*range(-5, 30), 2**62]
        assert [mine.is_member(i) for i in candidates] == [theirs.is_member(i) for i in candidates]


def test_normalize() -> None:
    rows = np.concatenate([RNG.standard_normal((200, 33)), np.zeros((1, 33))]).astype(np.float32)
    exact = rows.astype(np.float64)
    exact /= np.maximum(np.linalg.norm(exact, axis=1, keepdims=True), 1e-300)
    theirs, mine, tensor = rows.copy(), rows.copy(), torch.from_numpy(rows.copy())
    faiss.normalize_L2(theirs)
    ours.normalize_L2(mine)
    ours.normalize_L2(tensor)
    np.testing.assert_array_equal(mine, tensor.numpy())
    assert (np.abs(mine - exact) <= np.spacing(np.abs(mine)) / 2 * (1 + 1e-6)).all()
    assert (np.abs(theirs - exact) <= 36 * 2.0**-24 * np.abs(exact)).all()  # gamma of 33 + 3


def test_threads() -> None:
    before = torch.get_num_threads()
    ours.omp_set_num_threads(before + 1)
    assert ours.omp_get_max_threads() == torch.get_num_threads() == before + 1
    ours.omp_set_num_threads(before)
