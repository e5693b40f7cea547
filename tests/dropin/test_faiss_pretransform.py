"""Normalised vectors, beside FAISS."""

import copy
import pickle

import numpy as np
import pytest
import torch

import flashmatch.adapters.faiss as ours

faiss = pytest.importorskip("faiss")

RNG = np.random.default_rng(0)
SCALES = RNG.uniform(0.1, 50, (300, 1))
ROWS = (RNG.standard_normal((300, 16)) * SCALES).astype(np.float32)
QUERIES = RNG.standard_normal((30, 16)).astype(np.float32) * 9
IDS = np.arange(300) * 3


def normalized(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    ours.normalize_L2(x)
    return x


def test_transform() -> None:
    rows = np.concatenate([ROWS, np.zeros((1, 16), np.float32)])
    theirs, mine = faiss.NormalizationTransform(16), ours.NormalizationTransform(16, 2.0)
    np.testing.assert_allclose(mine.apply(rows), theirs.apply(rows), rtol=1e-6)
    np.testing.assert_array_equal(mine.apply(rows), normalized(rows), strict=True)
    np.testing.assert_array_equal(mine.apply_py(rows), mine.apply(rows))
    np.testing.assert_array_equal(mine.reverse_transform(rows), theirs.reverse_transform(rows))
    assert (mine.d_in, mine.d_out, mine.norm, mine.is_trained) == (16, 16, 2.0, True)
    tensor = torch.from_numpy(rows)
    assert torch.equal(mine.apply(tensor), torch.from_numpy(mine.apply(rows)))
    assert torch.equal(tensor, torch.from_numpy(rows))
    with pytest.raises(RuntimeError, match=r"norm must be 2.0; got 1.0"):
        ours.NormalizationTransform(16, 1.0)


@pytest.mark.parametrize("metric", [faiss.METRIC_INNER_PRODUCT, faiss.METRIC_L2])
@pytest.mark.parametrize("ids", ["", "IDMap,", "IDMap2,"])
def test_search(metric: int, ids: str) -> None:
    """The exact search of normalised vectors, and FAISS's labels."""
    description = f"{ids}L2norm,Flat"
    indexes = [library.index_factory(16, description, metric) for library in (faiss, ours)]
    for index in indexes:
        index.train(ROWS)
        index.add_with_ids(ROWS, IDS) if ids else index.add(ROWS)
    flat = ours.IndexFlat(16, metric)
    flat.add(normalized(ROWS))
    (_, labels), (values, mine) = (index.search(QUERIES, 7) for index in indexes)
    np.testing.assert_array_equal(mine, labels)
    expected, positions = flat.search(normalized(QUERIES), 7)
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_array_equal(mine, IDS[positions] if ids else positions)
    lims, found, _ = indexes[1].range_search(QUERIES, 0.5)
    for a, b in zip((lims, found), flat.range_search(normalized(QUERIES), 0.5), strict=False):
        np.testing.assert_array_equal(a, b)
    if ids != "IDMap,":
        first = [index.reconstruct(6) for index in indexes]
        np.testing.assert_allclose(*first, rtol=1e-6)
        np.testing.assert_array_equal(first[1], normalized(ROWS)[2 if ids else 6])
        D, I, R = indexes[1].search_and_reconstruct(QUERIES, 2)  # noqa: E741
        np.testing.assert_array_equal(D, values[:, :2])
        np.testing.assert_array_equal(R, normalized(ROWS)[I // 3 if ids else I])
    assert [index.remove_ids(np.array([0, 3])) for index in indexes] == [2, 2]
    assert [index.ntotal for index in indexes] == [298, 298]
    np.testing.assert_array_equal(*(index.search(QUERIES, 7)[1] for index in indexes))
    for index in indexes:
        index.reset()
    assert [index.ntotal for index in indexes] == [0, 0]


@pytest.mark.parametrize("description", ["L2norm,Flat", "IDMap2,L2norm,Flat", "L2norm,IDMap2,Flat"])
def test_copies_and_merges(description: str) -> None:
    index, other = (made(description) for _ in range(2))
    labels = index.search(QUERIES, 3)[1]
    twins = [
        copy.deepcopy(index),
        ours.clone_index(index),
        pickle.loads(pickle.dumps(index)),
        ours.index_gpu_to_cpu(index),
    ]
    index.merge_from(other)
    assert (index.ntotal, other.ntotal) == (600, 0)
    index.reset()
    for twin in twins:
        assert repr(twin) == repr(made(description))
        np.testing.assert_array_equal(twin.search(QUERIES, 3)[1], labels)
    with pytest.raises(RuntimeError, match="otherIndex must be"):
        index.merge_from(ours.IndexFlat(16))


def made(description: str) -> ours.Index:
    index = ours.index_factory(16, description, ours.METRIC_INNER_PRODUCT)
    index.add_with_ids(ROWS, IDS) if "IDMap" in description else index.add(ROWS)
    return index


def test_tensors() -> None:
    index = made("L2norm,Flat")
    values, labels = index.search(torch.from_numpy(QUERIES), 3)
    assert isinstance(labels, torch.Tensor)
    np.testing.assert_array_equal(values.numpy(), index.search(QUERIES, 3)[0])
    codes = index.sa_encode(ROWS[:2])
    assert index.sa_decode(codes).tolist() == normalized(ROWS[:2]).tolist()
    index.add_sa_codes(codes)  # as they are, not divided twice
    assert index.reconstruct(300).tolist() == normalized(ROWS[:1])[0].tolist()


@pytest.mark.parametrize("description", ["Flat", "L2norm,Flat", "IDMap,L2norm,Flat", "L2Norm,Flat"])
@pytest.mark.parametrize("end", ["", ",IDMap", ",IDMap2"])
def test_factory(description: str, end: str) -> None:
    if end and "IDMap" in description:
        return
    whole = faiss.index_factory(16, description + end)
    theirs, mine = whole, ours.index_factory(16, description + end)
    while True:  # what is inside a SWIG object is not owned
        assert type(mine).__name__ == type(theirs).__name__
        if not hasattr(mine, "index"):
            break
        theirs, mine = faiss.downcast_index(theirs.index), mine.index


def test_what_is_refused() -> None:
    flat, unit = ours.IndexFlat(16), ours.NormalizationTransform(16)
    for call, error, message in (
        (lambda: ours.IndexPreTransform(flat, unit), TypeError, "ltrans must be a Normalization"),
        (lambda: ours.IndexPreTransform(unit, 3), TypeError, "index must be .* got int"),
        (
            lambda: ours.IndexPreTransform(ours.NormalizationTransform(5), flat),
            RuntimeError,
            "ltrans must have d = 16, as index has; got 5",
        ),
        (
            lambda: ours.IndexIDMap(ours.IndexPreTransform(unit, ours.IndexIDMap(flat))),
            TypeError,
            "index must be an IndexFlat, or .* got IndexPreTransform",
        ),
        (lambda: ours.IndexPreTransform(unit, flat).add(ROWS[:, :3]), ValueError, "x must have"),
        (lambda: unit.apply(ROWS[:, :3]), ValueError, r"x must have shape \(n, 16\)"),
    ):
        with pytest.raises(error, match=message):
            call()
    with pytest.raises(RuntimeError, match="IndexIDMap"):
        ours.IndexPreTransform(unit, flat).add_with_ids(ROWS, IDS)
