"""What is refused: the exception, the argument it names, and an index that is as before."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

import flashmatch.adapters.faiss as ours

faiss = pytest.importorskip("faiss")

X = np.arange(12, dtype=np.float32).reshape(3, 4)
FLAT, WITH_IDS = "Flat", "IDMap2,Flat"


def made(library, kind: str):
    index = library.index_factory(4, kind)
    index.add(X) if kind == FLAT else index.add_with_ids(X, np.array([5, 6, 7]))
    return index


def float64(*shape: int) -> np.ndarray:
    return np.zeros(shape)


BOTH_REFUSE = [
    (FLAT, lambda lib, i: i.search(X[:, :3], 1), ValueError, r"x must have shape \(n, 4\).*3, 3"),
    (FLAT, lambda lib, i: i.search(X[0], 1), ValueError, r"x must have shape.*\(4,\)"),
    (FLAT, lambda lib, i: i.search(X, 0), ValueError, "k must be at least 1; got 0"),
    (FLAT, lambda lib, i: i.search(X, 2.0), TypeError, "k must be an int; got float"),
    (FLAT, lambda lib, i: i.search(X, 1, lib.SearchParameters()), TypeError, "D must be an array"),
    (FLAT, lambda lib, i: i.search(X, 2, D=float64(3, 2)), TypeError, "D must be float32"),
    (FLAT, lambda lib, i: i.search(X, 2, D=X), ValueError, r"D must have shape \(3, 2\)"),
    (FLAT, lambda lib, i: i.search(X, 2, I=float64(3, 2)), TypeError, "I must be int64"),
    (FLAT, lambda lib, i: i.search(X, 1, params=lib.IDSelectorAll()), TypeError, "params"),
    (FLAT, lambda lib, i: lib.SearchParameters(nprobe=1), TypeError, "nprobe"),
    (FLAT, lambda lib, i: i.assign(X, 2, X), TypeError, "labels must be int64"),
    (FLAT, lambda lib, i: i.add(X[:, :3]), ValueError, r"x must have shape \(n, 4\)"),
    (FLAT, lambda lib, i: i.add_with_ids(X, np.arange(3)), RuntimeError, "IndexIDMap"),
    (FLAT, lambda lib, i: i.train(X[:, :2]), ValueError, r"x must have shape \(n, 4\)"),
    (FLAT, lambda lib, i: i.reconstruct(3), RuntimeError, "key must be below ntotal = 3; got 3"),
    (FLAT, lambda lib, i: i.reconstruct(1.0), TypeError, "key must be an int"),
    (FLAT, lambda lib, i: i.reconstruct(1, X), ValueError, r"x must have shape \(4,\)"),
    (FLAT, lambda lib, i: i.reconstruct_n(2, 2), RuntimeError, r"n0 \+ ni - 1 must .* got 3"),
    (FLAT, lambda lib, i: i.reconstruct_n(-1, 2), RuntimeError, "n0 to n0 .* got -1"),
    (FLAT, lambda lib, i: i.reconstruct_batch([0, 3]), RuntimeError, "key must be below"),
    (FLAT, lambda lib, i: i.remove_ids(np.array([[1]])), ValueError, "x must be one-dim"),
    (FLAT, lambda lib, i: i.range_search(X[0], 1.0), ValueError, "x must have shape"),
    (FLAT, lambda lib, i: i.range_search(X, "a"), ValueError, "thresh must be .* 'a'"),
    (FLAT, lambda lib, i: i.merge_from(lib.IndexFlat(3)), RuntimeError, "d = 4"),
    (FLAT, lambda lib, i: i.merge_from(lib.IndexFlatL2(4)), RuntimeError, "otherIndex"),
    (FLAT, lambda lib, i: i.merge_from(lib.IndexFlat(4), 3), RuntimeError, "add_id"),
    (FLAT, lambda lib, i: lib.IndexIDMap(i), RuntimeError, "index must be empty; got 3"),
    (FLAT, lambda lib, i: lib.IndexIDMap(4), TypeError, "index must be an IndexFlat.* got int"),
    (FLAT, lambda lib, i: lib.IndexFlatL2(4.0), TypeError, "d must be an int"),
    (FLAT, lambda lib, i: lib.IDSelectorNot(3), TypeError, "sel must be an IDSelector"),
    (FLAT, lambda lib, i: lib.IDSelectorBitmap([6]), ValueError, "bitmap must be .* uint8"),
    (FLAT, lambda lib, i: lib.knn(X, X[:, :3], 1), ValueError, r"xb must have shape \(n, 4\)"),
    (FLAT, lambda lib, i: lib.index_factory(4, "flat"), RuntimeError, "description"),
    (FLAT, lambda lib, i: lib.normalize_L2(float64(2, 2)), TypeError, "x must be float32"),
    (FLAT, lambda lib, i: lib.normalize_L2(np.asfortranarray(X)), ValueError, "contiguous"),
    (FLAT, lambda lib, i: setattr(i, "nprobe", 1), AttributeError, "nprobe"),
    (WITH_IDS, lambda lib, i: i.add(X), RuntimeError, "use add_with_ids"),
    (WITH_IDS, lambda lib, i: i.add_with_ids(X, np.arange(2)), ValueError, "ids must be one for"),
    (WITH_IDS, lambda lib, i: i.reconstruct(8), RuntimeError, "key must be .* got 8"),
    (WITH_IDS, lambda lib, i: i.reconstruct_batch([5, -1]), RuntimeError, "key must be .* got -1"),
    (WITH_IDS, lambda lib, i: i.merge_from(i.index), RuntimeError, "otherIndex must be"),
]


@pytest.mark.parametrize(("kind", "call", "error", "message"), BOTH_REFUSE)
def test_refused_as_faiss_refuses(
    kind: str, call: Callable, error: type[Exception], message: str
) -> None:
    with pytest.raises(Exception) as theirs:  # noqa: PT011
        call(faiss, made(faiss, kind))
    index = made(ours, kind)
    with pytest.raises(error, match=message):
        call(ours, index)
    assert index.ntotal == 3
    assert issubclass(error, RuntimeError) == isinstance(theirs.value, RuntimeError)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda i: i.remove_ids(np.array([0.7])), ValueError, "x must be whole .* got 0.7"),
        (lambda i: i.remove_ids(np.array([np.nan])), ValueError, "x must be whole .* got nan"),
        (lambda i: i.remove_ids(np.array([2.0**63])), ValueError, "x must be whole"),
        (lambda i: i.remove_ids([2**64]), ValueError, "x must be a whole .* got 184467440"),
        (lambda i: i.remove_ids(np.array([True, False, True])), TypeError, "x must be .* got True"),
        (lambda i: i.remove_ids(["cat"]), TypeError, "x must be whole .* got 'cat'"),
        (lambda i: i.remove_ids([2**63, 0.5]), ValueError, "x must be whole .* got 0.5"),
        (lambda i: i.remove_ids([None, 2]), TypeError, "x must be whole .* got None"),
        (lambda i: i.remove_ids({1, 2}), TypeError, "x must be an array of .* got set"),
        (lambda i: i.remove_ids([[1, 2], [3]]), ValueError, "x must be one-dimensional"),
        (lambda i: i.search(X, True), TypeError, "k must be an int; got bool"),
        (lambda i: i.search(X, torch.tensor(True)), TypeError, "k must be an int; got Tensor"),
        (lambda i: i.search(None, 1), TypeError, r"x must be numbers of shape \(n, d\); got None"),
        (lambda i: i.search([["a"] * 4], 1), TypeError, "x must be numbers"),
        (lambda i: i.search([[1.0], [1.0, 2.0]], 1), ValueError, "x must be numbers"),
        (lambda i: i.search(X * 1j, 1), TypeError, "x must be numbers .* complex64"),
        (lambda i: i.search(torch.from_numpy(X) * 1j, 1), TypeError, "x must be real numbers"),
        (lambda i: i.add(torch.from_numpy(X).to_sparse()), TypeError, "x must be a dense"),
        (lambda i: i.add(torch.empty(2, 4, device="meta")), TypeError, "x must be a dense"),
        (lambda i: i.train(None), TypeError, "x must be numbers"),
        (lambda i: i.range_search(X, None), TypeError, "thresh must be a number; got None"),
        (lambda i: i.add_sa_codes(X), TypeError, "codes must be uint8; got torch.float32"),
        (lambda i: i.add_sa_codes(X.view(np.uint8)[:, :3]), ValueError, r"codes .* \(n, 16\)"),
        (lambda i: i.sa_decode(np.zeros(16, np.uint8)), ValueError, r"codes .* got \(16,\)"),
        (lambda i: i.reconstruct(-1), RuntimeError, "got -1"),
        (lambda i: i.merge_from(i), RuntimeError, "another"),
        (lambda i: ours.IndexFlatIP(0), ValueError, "d must be at least 1; got 0"),
        (lambda i: ours.IndexFlat(4, 2), NotImplementedError, r"metric must be .* METRIC_L1 \(2\)"),
        (lambda i: ours.IndexFlat(4, "l2"), TypeError, "metric must be an int; got str"),
        (lambda i: ours.IndexFlat(True), TypeError, "d must be an int; got bool"),
        (lambda i: ours.knn(X, X, 1, metric=23), NotImplementedError, "metric must be"),
        (
            lambda i: ours.index_factory(4, "IVF4,Flat"),
            NotImplementedError,
            "'IDMap,'.* got 'IVF4,Flat'",
        ),
        (lambda i: ours.index_factory(4, "IDMap,IDMap2,Flat"), NotImplementedError, "description"),
        (lambda i: ours.index_factory(4, None), TypeError, "description must be a str"),
        (lambda i: ours.IndexIVFFlat, AttributeError, "flat indexes"),
        (lambda i: ours.IDSelectorBatch(9, np.arange(3)), ValueError, "9 elements"),
        (lambda i: ours.normalize_L2(np.broadcast_to(X[0], (1, 4))), ValueError, "writable"),
        (lambda i: ours.normalize_L2([[1.0]]), TypeError, "list"),
        (lambda i: ours.IndexFlat(4, device="gpu"), ValueError, "device must be .* got 'gpu'"),
        (lambda i: ours.deserialize_index(b"", device="gpu"), ValueError, "device must be"),
        (lambda i: ours.read_index("index", device="gpu"), ValueError, "device must be"),
        (lambda i: i.assign(X, 1, np.broadcast_to(0, (3, 1))), ValueError, "labels must be writ"),
        (lambda i: i.search(X, 1, D=[[1.0]] * 3), TypeError, "D must be an array"),
    ],
)
def test_refused_where_faiss_is_silent_or_crashes(
    call: Callable, error: type[Exception], message: str
) -> None:
    index = made(ours, FLAT)
    with pytest.raises(error, match=message):
        call(index)
    assert index.ntotal == 3


def test_index_changed_behind_its_ids() -> None:
    index = made(ours, WITH_IDS)
    index.index.add(torch.ones(1, 4))
    with pytest.raises(RuntimeError, match="4 vectors for 3 ids"):
        index.search(X, 1)
    index.reset()
    assert index.search(X, 1)[1].tolist() == [[-1]] * 3


def test_index_id_map_cannot_reconstruct() -> None:
    index = ours.IndexIDMap(ours.IndexFlatL2(4))
    index.add_with_ids(X, np.arange(3))
    for call in (index.reconstruct, index.reconstruct_n):
        with pytest.raises(RuntimeError, match="IndexIDMap2"):
            call(0)
