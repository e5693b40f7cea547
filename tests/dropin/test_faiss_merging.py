"""Results joined, all distances, random vectors, and faiss.contrib, beside FAISS."""

import importlib
import sys

import numpy as np
import pytest
import torch

import flashmatch.adapters.faiss as ours
from flashmatch.kernels.contract.reference import scores

faiss = pytest.importorskip("faiss")
from faiss.contrib import exhaustive_search as their_search  # noqa: E402

RNG = np.random.default_rng(0)
QUERIES = RNG.integers(-200, 200, (8, 4)).astype(np.float32)  # exact in FAISS's float32 sums
ROWS = RNG.integers(-500, 500, (48, 4)).astype(np.float32)
METRICS = pytest.mark.parametrize("metric", [faiss.METRIC_INNER_PRODUCT, faiss.METRIC_L2])
WORST = np.finfo(np.float32).max


@METRICS
def test_pairwise_distances(metric: int) -> None:
    for q, p in (
        (QUERIES, ROWS),
        (QUERIES.astype(int), np.asfortranarray(ROWS)),
        (QUERIES[:0], ROWS),
        (QUERIES, ROWS[:0]),
    ):
        theirs, mine = (lib.pairwise_distances(q, p, metric) for lib in (faiss, ours))
        np.testing.assert_array_equal(mine, theirs, strict=True)
    tensors = ours.pairwise_distances(torch.from_numpy(QUERIES), torch.from_numpy(ROWS), metric)
    assert torch.equal(tensors, torch.from_numpy(ours.pairwise_distances(QUERIES, ROWS, metric)))


@METRICS
@pytest.mark.parametrize("shape", [(3, 2000, 5), (900, 1300, 3), (1, 1, 1), (7, 5, 300)])
def test_pairwise_distances_are_those_of_a_search(
    metric: int, shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    n, m, d = shape
    monkeypatch.setattr("flashmatch.adapters.faiss.search._BLOCK_PAIRS", 5000)
    q, p = (RNG.standard_normal((count, d)).astype(np.float32) for count in (n, m))
    found = ours.pairwise_distances(q, p, metric)
    values, labels = ours.knn(q[:50], p, m, metric)
    np.testing.assert_array_equal(np.take_along_axis(found[:50], labels, 1), values)
    expected = scores(torch.from_numpy(q[:2]), torch.from_numpy(p), ("dot", "l2")[metric])
    sign = -1 if metric == faiss.METRIC_L2 else 1
    np.testing.assert_array_equal(found[:2], sign * expected.float().numpy())


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # FAISS's
@METRICS
def test_pairwise_distances_of_what_is_not_finite(metric: int) -> None:
    q, p = QUERIES.copy(), ROWS.copy()
    q[1, 0], q[3, 2], p[5, 1], p[7] = np.nan, np.inf, -np.inf, np.nan
    theirs, mine = (lib.pairwise_distances(q, p, metric) for lib in (faiss, ours))
    finite = np.ones(theirs.shape, dtype=bool)
    finite[[1, 3]], finite[:, [5, 7]] = False, False
    np.testing.assert_array_equal(mine[finite], theirs[finite])
    with np.errstate(invalid="ignore"):
        naive = q.astype(float) @ p.astype(float).T
        if metric == faiss.METRIC_L2:
            naive = np.square(q[:, None].astype(float) - p).sum(2)
    np.testing.assert_array_equal(mine, naive.astype(np.float32))


def test_pairwise_distances_refuse() -> None:
    with pytest.raises(NotImplementedError, match=r"METRIC_L1 \(2\)"):
        ours.pairwise_distances(QUERIES, ROWS, ours.METRIC_L1)
    with pytest.raises(ValueError, match=r"xb must have shape \(n, 4\)"):
        ours.pairwise_distances(QUERIES, ROWS[:, :2])


@pytest.mark.parametrize("keep_max", [False, True])
def test_result_heap(keep_max: bool) -> None:
    pieces = [RNG.permutation(4000)[: 5 * width].reshape(5, width) for width in (3, 1, 7)]
    pieces[1] = pieces[1].astype(np.float32)
    pieces[1][2] = np.nan
    heaps = [library.ResultHeap(5, 6, keep_max=keep_max) for library in (faiss, ours)]
    for i, piece in enumerate(pieces):
        values = piece.astype(np.float32)
        for heap in heaps:
            heap.add_result(values, np.arange(values.size).reshape(values.shape) + 100 * i)
            heap.add_result_subset(np.array([1, 4]), values[:2] + 0.5, np.arange(values.shape[1]))
    for heap in heaps:
        heap.finalize()
    for name in ("D", "I"):
        theirs, mine = (getattr(heap, name) for heap in heaps)
        np.testing.assert_array_equal(mine, theirs, strict=True)


@pytest.mark.parametrize("keep_max", [False, True])
def test_results_of_shards(keep_max: bool) -> None:
    metric = faiss.METRIC_INNER_PRODUCT if keep_max else faiss.METRIC_L2
    whole = ours.knn(QUERIES, ROWS, 20, metric)
    parts = [ours.knn(QUERIES, ROWS[start : start + 12], 20, metric) for start in range(0, 48, 12)]
    D = np.stack([values for values, _ in parts])
    I = np.stack([np.where(x < 0, x, x + 12 * i) for i, (_, x) in enumerate(parts)])  # noqa: E741
    for library in (faiss, ours):
        for found, expected in zip(library.merge_knn_results(D, I, keep_max), whole, strict=True):
            np.testing.assert_array_equal(found, expected, strict=True)
    none = ours.merge_knn_results(D, np.full_like(I, -1), keep_max)
    assert (none[1] == -1).all()
    assert (none[0] == (-WORST if keep_max else WORST)).all()


def test_best_columns() -> None:
    table = RNG.permutation(60).reshape(5, 12).astype(np.float32)
    for name in ("kmin", "kmax"):
        for k in (1, 4, 15):
            results = zip(
                getattr(faiss, name)(table, k), getattr(ours, name)(table, k), strict=True
            )
            for theirs, mine in results:
                np.testing.assert_array_equal(mine, theirs, strict=True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ours.ResultHeap(2, 3).add_result(ROWS, ROWS[:, :2]), "D and I must have"),
        (lambda: ours.ResultHeap(2, 3).add_result_subset([0], ROWS, ROWS), "subset must be"),
        (lambda: ours.merge_knn_results(ROWS, ROWS), "Dall and Iall"),
        (lambda: ours.kmin(ROWS[0], 2), "array must have two"),
        (lambda: ours.ResultHeap(-1, 3), "nq must be at least 0"),
    ],
)
def test_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_random_numbers() -> None:
    for name in ("rand", "randn", "randint"):
        for shape in (5, (3, 4)):
            theirs, mine = (getattr(lib, name)(shape, 7) for lib in (faiss, ours))
            assert (mine.shape, mine.dtype) == (theirs.shape, theirs.dtype)
            assert (mine == getattr(ours, name)(shape, 7)).all()
            assert (mine != getattr(ours, name)(shape, 8)).any()
    assert set(ours.randint(200, vmax=3).tolist()) == {0, 1, 2}
    assert 0 <= ours.rand(1000).min() < 0.1 < 0.9 < ours.rand(1000).max() < 1
    assert abs(ours.randn(10000).std() - 1) < 0.05


@METRICS
def test_ground_truth(metric: int) -> None:
    def blocks():
        yield from np.array_split(ROWS, 5)

    for k in (3, 60):
        theirs = their_search.knn_ground_truth(QUERIES, blocks(), k, metric)
        mine = ours.contrib.exhaustive_search.knn_ground_truth(QUERIES, blocks(), k, metric)
        np.testing.assert_array_equal(mine[1], theirs[1])
        np.testing.assert_array_equal(mine[0], theirs[0])
    for threshold in (2e5, 1e9, -1e9):
        mine = ours.contrib.exhaustive_search.range_ground_truth(
            QUERIES, blocks(), threshold, metric
        )
        whole = ours.IndexFlat(4, metric)
        whole.add(ROWS)
        for a, b in zip(mine, whole.range_search(QUERIES, threshold), strict=True):
            np.testing.assert_array_equal(a, b, strict=True)
    sizes = [
        [len(x) for x in module.exponential_query_iterator(np.zeros((700, 2)), 10, 90)]
        for module in (their_search, ours.contrib.exhaustive_search)
    ]
    assert sizes[0] == sizes[1]


def test_inspect_tools() -> None:
    index = ours.IndexFlatL2(4)
    index.add(ROWS)
    tools = ours.contrib.inspect_tools
    np.testing.assert_array_equal(tools.get_flat_data(index), ROWS, strict=True)
    np.testing.assert_array_equal(tools.get_flat_codes(index), index.sa_encode(ROWS), strict=True)


@pytest.mark.parametrize("name", ["torch_utils", "exhaustive_search", "inspect_tools"])
def test_contrib_under_the_name_of_faiss(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As scripts do that put one module in the place of the other."""
    for module in [module for module in sys.modules if module.split(".")[0] == "faiss"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "faiss", ours)
    monkeypatch.setattr(ours, "contrib", ours.contrib)  # which the import sets
    module = importlib.import_module(f"faiss.contrib.{name}")
    monkeypatch.delitem(sys.modules, f"faiss.contrib.{name}")
    monkeypatch.delitem(sys.modules, "faiss.contrib")
    assert module.__file__ == getattr(ours.contrib, name).__file__
    if name == "exhaustive_search":
        assert module.knn is ours.knn
        found = module.knn_ground_truth(QUERIES, [ROWS], 2)
        np.testing.assert_array_equal(found[1], ours.knn(QUERIES, ROWS, 2)[1])


def test_tensors_with_positional_results() -> None:
    index, queries = ours.IndexFlatL2(4), torch.from_numpy(QUERIES)
    index.add(torch.from_numpy(ROWS))
    D, I = torch.empty(8, 3), torch.empty(8, 3, dtype=torch.int64)  # noqa: E741
    found = index.search(queries, 3, D, I)
    assert found[0] is D
    assert found[1] is I
    R = torch.empty(8, 3, 4)
    assert index.search_and_reconstruct(queries, 3, D, I, R)[2] is R
    for a, b in zip((D, I), index.search(QUERIES, 3), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(R, ROWS[I])
    with ours.contrib.torch_utils.using_stream(None):
        assert torch.equal(index.search(queries, 3)[1], I)


def test_version() -> None:
    from packaging.version import Version

    assert Version(ours.__version__) >= Version("1.7.4")
    assert [ours.is_similarity_metric(x) for x in (ours.METRIC_L2, 0, 2)] == [False, True, False]
