"""Columns of frames as ids."""

import pytest
from named import assert_same, rows_of

from flashmatch.kernels import PrototypeBank


def test_columns_of_pandas() -> None:
    pandas = pytest.importorskip("pandas")
    rows = rows_of(3)
    frame = pandas.DataFrame({"id": ["cat", "", "a\0"], "number": [7, 3, 5]})
    for dtype in (None, object, "string", "category"):
        column = frame["id"] if dtype is None else frame["id"].astype(dtype)
        for each in (column, pandas.Index(column), column.to_numpy()):
            bank = PrototypeBank(rows, ids=each)
            bank.remove(column[1:2])
            assert_same(bank, {"cat": rows[0], "a\0": rows[2]})
    for dtype in ("int64", "uint8", "Int64", "category"):
        bank = PrototypeBank(rows, ids=frame["number"].astype(dtype))
        bank.remove(frame["number"][1:2])
        assert bank.ids.tolist() == [7, 5]
    for values, got in (
        (pandas.Series(["a", None, "b"]), "(nan|None)"),
        (pandas.Series(["a", None, "b"], dtype="string"), "<NA>"),
        (pandas.Series([1, None, 2], dtype="Int64"), "<NA>"),
        (pandas.Series([1, None, 2]), "1.0"),
        (pandas.Series([True, False, True]), "(np.)?True"),
        (pandas.Series(pandas.to_datetime(["2020-01-01"] * 3)), "Timestamp"),
        (pandas.Series(["a", 1, "b"], dtype=object), "1"),
    ):
        with pytest.raises(TypeError, match=f"ids must be all integers or all strings; got {got}"):
            PrototypeBank(rows, ids=values)
    with pytest.raises(ValueError, match=r"ids must be 1-D; got shape \(3, 2\)"):
        PrototypeBank(rows, ids=frame)


def test_columns_of_polars() -> None:
    polars = pytest.importorskip("polars")
    rows = rows_of(3)
    frame = polars.DataFrame({"id": ["cat", "", "a\0"], "number": [7, 3, 5]})
    for dtype in (polars.String, polars.Categorical, polars.Enum(["cat", "", "a\0"])):
        column = frame["id"].cast(dtype)
        bank = PrototypeBank(rows, ids=column)
        bank.remove(column[1:2])
        assert_same(bank, {"cat": rows[0], "a\0": rows[2]})
    for dtype in (polars.Int64, polars.UInt8):
        bank = PrototypeBank(rows, ids=frame["number"].cast(dtype))
        bank.remove(frame["number"][1:2])
        assert bank.ids.tolist() == [7, 5]
    for values, got in (
        (["a", None, "b"], "None"),
        ([1, None, 2], "None"),
        ([1.0, 2.0, 3.0], "1.0"),
        ([True, False, True], "True"),
        ([b"a", b"b", b"c"], "b'a'"),
    ):
        with pytest.raises(TypeError, match=f"ids must be all integers or all strings; got {got}"):
            PrototypeBank(rows, ids=polars.Series(values))


def test_arrays_of_pyarrow() -> None:
    pyarrow = pytest.importorskip("pyarrow")
    rows = rows_of(3)
    ids = pyarrow.array(["cat", "", "a\0"])
    chunked = pyarrow.chunked_array([ids[:1], ids[1:]])
    large = ids.cast(pyarrow.large_string())
    for column in (ids, chunked, large, ids.dictionary_encode()):
        bank = PrototypeBank(rows, ids=column)
        bank.remove(ids[1:2])
        assert_same(bank, {"cat": rows[0], "a\0": rows[2]})
    bank = PrototypeBank(rows, ids=pyarrow.array([7, 3, 5]))
    bank.remove(pyarrow.array([3]))
    assert bank.ids.tolist() == [7, 5]
    for values in (["a", None, "b"], [1, None, 2]):
        with pytest.raises(TypeError, match=r"ids must be .*; got None"):
            PrototypeBank(rows, ids=pyarrow.array(values))
