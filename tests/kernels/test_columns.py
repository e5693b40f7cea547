"""Columns of pyarrow, pandas and polars, and arrays of JAX: taken where they are installed."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from programs import output_of

from flashmatch import Matches, PrototypeBank, topk, verify
from flashmatch.kernels.arrays.taken import as_prototypes, as_tensor, as_vectors
from flashmatch.retriever.metrics import RetrievalMetrics, relevance

pytestmark = pytest.mark.filterwarnings("error")

Q, P = torch.randn(3, 8).numpy(), torch.randn(50, 8).numpy()
K = 4


@pytest.fixture(name="pa")
def pyarrow() -> Any:
    return pytest.importorskip("pyarrow")


@pytest.fixture(name="pd")
def pandas() -> Any:
    return pytest.importorskip("pandas")


@pytest.fixture(name="pl")
def polars() -> Any:
    return pytest.importorskip("polars")


def fixed(pa: Any, array: np.ndarray) -> Any:
    return pa.FixedSizeListArray.from_arrays(pa.array(array.ravel()), array.shape[1])


def assert_found(found: Matches, dtype: torch.dtype = torch.float32) -> None:
    wanted = topk(torch.tensor(Q).to(dtype), torch.tensor(P).to(dtype), K)
    for got, right in zip(found, wanted, strict=True):
        assert isinstance(got, np.ndarray)
        assert np.array_equal(got, right.numpy())


def assert_taken(make: Callable[[np.ndarray], Any], dtype: torch.dtype = torch.float32) -> None:
    assert_found(topk(make(Q), make(P), K), dtype)
    bank = PrototypeBank(make(P[:30]))
    assert bank.add(make(P[30:])).tolist() == list(range(30, 50))
    found = bank.topk(make(Q), K)
    assert_found(found, dtype)
    assert verify(make(Q), make(P), found)


def assert_refused(column: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=rf"^prototypes(\[0\])? must {message}"):
        PrototypeBank(column)
    with pytest.raises((TypeError, ValueError), match=rf"^queries(\[0\])? must {message}"):
        topk(column, P, 1)


def test_pyarrow_vectors(pa: Any) -> None:
    assert_taken(lambda x: fixed(pa, x))
    assert_taken(lambda x: fixed(pa, np.concatenate([x, x]))[len(x) :])
    assert_taken(lambda x: pa.chunked_array([fixed(pa, x)]))
    assert_taken(lambda x: pa.chunked_array([fixed(pa, x[:2]), fixed(pa, x[2:])]))
    assert_taken(lambda x: pa.FixedShapeTensorArray.from_numpy_ndarray(x))
    assert_taken(lambda x: pa.table({"vector": fixed(pa, x)})["vector"])
    assert_taken(lambda x: pa.array(list(x), pa.list_(pa.float32())))
    assert_taken(lambda x: pa.array(list(x), pa.large_list(pa.float32()))[0:])
    assert_taken(lambda x: pa.array(x.tolist()), torch.float64)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_pyarrow_memory_is_shared(pa: Any, dtype: type) -> None:
    array = P.astype(dtype)
    column = fixed(pa, array)
    assert as_vectors("queries", column).data_ptr() == array.ctypes.data
    assert as_vectors("queries", column[7:]).data_ptr() == array[7:].ctypes.data
    chunks = as_prototypes(pa.chunked_array([column, column[5:]]))
    assert [chunk.data_ptr() for chunk in chunks] == [array.ctypes.data, array[5:].ctypes.data]


def test_pyarrow_empty(pa: Any) -> None:
    for column in (
        fixed(pa, P)[:0],
        pa.chunked_array([], fixed(pa, P).type),
        pa.chunked_array([fixed(pa, P)[:0]]),
    ):
        assert len(PrototypeBank(column)) == 0
        assert topk(column, P, 2).indices.shape == (0, 2)


def test_pyarrow_refusals(pa: Any) -> None:
    rows = [[1.0, 2.0], None, [3.0, 4.0]]
    kind = pa.list_(pa.float32(), 2)
    assert_refused(pa.array(rows, kind), "have no nulls; got 1 among 3 rows")
    assert_refused(pa.chunked_array([pa.array(rows, kind)]), "have no nulls; got 1 among 3 rows")
    assert_refused(pa.array([[1.0, None]], kind), "have no nulls; got 1 among 2 elements")
    assert_refused(pa.array([[1.0], [1.0, 2.0]]), "have vectors of one length; got 1 to 2")
    assert_refused(pa.array([1.0, 2.0]), r"have shape .*; got \(2,\)")
    assert_refused(pa.array(["a"]), "be .*; got ")
    assert_refused(pa.array([["a"]]), "be .*; got ")
    assert_refused(pa.array([[[1.0]]]), "be .*; got ")
    assert_refused(pa.array([[1]]), "be float32.*; got torch.int64")
    assert_refused(pa.array([{"x": 1.0}]), "be .*; got ")
    assert_refused(pa.table({"x": [1.0]}), "be a column of vectors .*; got pyarrow.Table")
    assert_refused(pa.scalar(1.0), "be a column of vectors .*; got pyarrow.DoubleScalar")


def test_pandas_vectors(pd: Any) -> None:
    assert_taken(lambda x: pd.DataFrame({"v": list(x)})["v"])
    assert_taken(lambda x: pd.Series(list(x), index=range(100, 100 + len(x))))
    assert_taken(lambda x: pd.Series(x.tolist()), torch.float64)
    assert_taken(lambda x: pd.DataFrame(x))
    frame = pd.DataFrame({"v": list(P), "lang": ["de", "en"] * 25})
    assert_found(topk(Q, frame["v"].sample(frac=1, random_state=0).sort_index(), K))
    german = topk(Q, frame["v"], K, mask=frame["lang"] == "de")
    assert (german.indices % 2 == 0).all()


def test_pandas_of_arrow(pd: Any, pa: Any) -> None:
    def series(x: np.ndarray) -> Any:
        return pd.Series(fixed(pa, x), dtype=pd.ArrowDtype(fixed(pa, x).type))

    assert_taken(series)
    assert_taken(lambda x: pd.concat([series(x[:2]), series(x[2:])], ignore_index=True))
    column = pd.Series(column := fixed(pa, P), dtype=pd.ArrowDtype(column.type))
    assert as_prototypes(column).data_ptr() == P.ctypes.data
    assert_refused(
        pd.concat([column, pd.Series([None], dtype=column.dtype)]), "have no nulls; got 1 among"
    )


def test_pandas_refusals(pd: Any) -> None:
    assert_refused(pd.Series([P[0], None]), "have no nulls; got 1 among 2 rows")
    assert_refused(pd.Series([P[0], P[0, :4]]), "have rows of one length")
    assert_refused(pd.Series([1.0, 2.0]), r"have shape .*; got \(2,\)")
    assert_refused(pd.Series([1, 2]), "be float32.*; got torch.int64")
    assert_refused(pd.DataFrame({"a": ["x"], "b": ["y"]}), "be of a dtype that torch has; got ")
    for words in (pd.Series(["a", "b"]), pd.Series([["a"]]), pd.Series([{"a": 1}])):
        with pytest.raises(TypeError, match=r"^prototypes(\[0\])? must be "):
            PrototypeBank(words)


def test_polars_vectors(pl: Any) -> None:
    assert_taken(lambda x: pl.Series(x))
    assert_taken(lambda x: pl.Series(np.concatenate([x, x]))[len(x) :])
    assert_taken(lambda x: pl.DataFrame({"v": x})["v"])
    assert_taken(lambda x: pl.concat([pl.Series(x[:2]), pl.Series(x[2:])], rechunk=False))
    assert_taken(lambda x: pl.Series([*x], dtype=pl.List(pl.Float32)))
    assert_taken(lambda x: pl.Series(x.tolist()), torch.float64)
    assert_taken(lambda x: pl.Series([*x], dtype=pl.Object))
    assert_taken(lambda x: pl.DataFrame(x))


def test_polars_memory_is_shared(pl: Any) -> None:
    assert as_vectors("queries", pl.Series(P)).data_ptr() == P.ctypes.data
    chunks = pl.concat([pl.Series(P), pl.Series(P[:20])], rechunk=False)
    assert as_prototypes(chunks)[0].data_ptr() == P.ctypes.data
    lists = pl.Series(P.tolist())
    assert as_vectors("queries", lists).data_ptr() == lists.explode().to_numpy().ctypes.data


def test_polars_empty(pl: Any) -> None:
    for column in (pl.Series(P)[:0], pl.Series([], dtype=pl.Array(pl.Float32, 8))):
        assert len(PrototypeBank(column)) == 0
        assert topk(column, P, 2).indices.shape == (0, 2)


def test_polars_refusals(pl: Any) -> None:
    array, many = pl.Array(pl.Float32, 2), pl.List(pl.Float32)
    for dtype in (array, many):
        rows = pl.Series([[1.0, 2.0], None], dtype=dtype)
        assert_refused(rows, "have no nulls; got 1 among 2 rows")
        rows = pl.Series([[1.0, 2.0], [1.0, None]], dtype=dtype)
        assert_refused(rows, "have no nulls; got 1 among 4 elements")
    assert_refused(pl.Series([[1.0], [1.0, 2.0]]), "have vectors of one length; got 1 to 2")
    assert_refused(pl.Series([[], []], dtype=many), r"have shape .*; got \(2, 0\)")
    assert_refused(pl.Series([1.0]), r"have shape .*; got \(1,\)")
    assert_refused(pl.Series(P[None]), r"have shape .*; got \(1, 50, 8\)")
    assert_refused(pl.DataFrame(P).lazy(), "be a column of vectors .*; got polars.LazyFrame")
    with pytest.raises(TypeError, match=r"^prototypes(\[0\])? must be "):
        PrototypeBank(pl.Series(["a"]))


def test_masks_and_labels_of_columns(pd: Any, pl: Any, pa: Any) -> None:
    allowed, labels = np.arange(50) % 3 > 0, np.arange(50) % 5
    wanted = topk(Q, P, K, mask=allowed)
    masks = (
        pd.Series(allowed),
        pd.Series(allowed, dtype="boolean"),
        pd.Series(allowed, dtype="bool[pyarrow]"),
        pl.Series(allowed),
        pa.array(allowed),
        pa.chunked_array([allowed[:9], allowed[9:]]),
    )
    for mask in masks:
        assert np.array_equal(topk(Q, P, K, mask=mask).indices, wanted.indices)
        found = topk(torch.tensor(Q), P, K, mask=mask)
        assert np.array_equal(found.indices.numpy(), wanted.indices)
    right = relevance(wanted.indices, labels[:3], labels)
    for make in (pd.Series, pl.Series, pa.array, lambda x: pd.Series(x, dtype="Int64")):
        got = relevance(wanted.indices, make(labels[:3]), make(labels))
        assert all(np.array_equal(a, b) for a, b in zip(got, right, strict=True))
        assert as_tensor("labels", make(labels)).dtype == torch.int64
    with pytest.raises(ValueError, match=r"^mask must have no nulls; got 1 among 50 rows"):
        topk(Q, P, K, mask=pd.Series([None, *allowed[1:]], dtype="boolean"))
    with pytest.raises(ValueError, match=r"^mask must have no nulls; got 1 among 50 rows"):
        topk(Q, P, K, mask=pl.Series([None, *allowed[1:].tolist()]))


def test_jax() -> None:
    jax = pytest.importorskip("jax")
    for dtype in ("float32", "float16", "bfloat16"):
        queries, prototypes = (jax.numpy.asarray(x, dtype=dtype) for x in (Q, P))
        given = torch.from_dlpack(queries), torch.from_dlpack(prototypes)
        allowed = np.arange(50) % 3 > 0
        for search in (topk, lambda q, p, k, **m: PrototypeBank(p).topk(q, k, **m)):
            found = search(queries, prototypes, K, mask=jax.numpy.asarray(allowed))
            wanted = topk(*given, K, mask=torch.tensor(allowed))
            assert all(isinstance(x, jax.Array) for x in found)
            assert found.indices.dtype == ("int64" if jax.config.jax_enable_x64 else "int32")
            assert np.array_equal(found.scores, wanted.scores.numpy())
            assert np.array_equal(found.indices, wanted.indices.numpy())
            assert found.scores.devices() == queries.devices()
        assert verify(queries, prototypes, found, mask=allowed)
    assert topk(queries, prototypes, 0).indices.shape == (3, 0)
    metrics = RetrievalMetrics(ks=(1, K))
    metrics.update(relevance(found.indices, np.zeros(3, int), np.zeros(50, int)))
    assert metrics.compute()["hit_rate@1"] == 1
    with pytest.raises(TypeError, match=r"^queries must be .*Tracer"):
        jax.jit(lambda x: topk(x, P, 1))(queries)


def test_none_of_them_is_imported_by_us() -> None:
    code = """
import sys, numpy, torch, flashmatch
flashmatch.topk(numpy.ones((1, 2)), [[1.0, 2.0]], 1)
print(sorted({"pandas", "polars", "pyarrow", "jax", "cupy", "ml_dtypes"} & set(sys.modules)))
"""
    assert output_of("-c", code).strip() == "[]"
