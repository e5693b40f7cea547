"""Columns of pyarrow, pandas and polars, as the NumPy arrays that lie in them.

None of the three is imported: whoever has a column has its library, and the column has methods.
"""

from typing import Any, NoReturn

import numpy as np

_LIBRARIES = frozenset({"pandas", "polars", "pyarrow"})
_LISTS = ("FixedSizeListArray", "ListArray", "LargeListArray")

Part = np.ndarray | list[Any]
"""(rows, channels), or (rows,): of numbers, or of objects that are rows themselves."""


def is_column(value: object) -> bool:
    """Whether it is an array, column or table of one of the three libraries."""
    return _library(value) is not None


def parts_of(name: str, column: Any) -> list[Part]:
    """The parts that a column is kept in, one at least; their memory where that is one vector
    behind the other. A data frame is one part, (rows, columns).

    Raises:
        TypeError, ValueError: naming ``name``: nulls, vectors of several lengths, a table.
    """
    library = _library(column)
    if library == "pandas":
        return _of_pandas(name, column)
    if library == "polars":
        return _of_polars(name, column)
    return _of_arrow(name, column)


def _library(value: object) -> str | None:
    for base in type(value).__mro__:
        root = base.__module__.partition(".")[0]
        if root in _LIBRARIES:
            return root
    return None


def _of_pandas(name: str, column: Any) -> list[Part]:
    dtype = getattr(column, "dtype", None)
    if dtype is None or not hasattr(column, "isna"):
        return [np.asarray(_require_table(name, column))]
    if hasattr(dtype, "pyarrow_dtype"):
        return _of_arrow(name, column.array.__arrow_array__())
    if not isinstance(dtype, np.dtype) or dtype.hasobject:
        _require_no_nulls(name, int(column.isna().sum()), len(column))
    within = getattr(dtype, "numpy_dtype", None)  # of a nullable dtype
    return [column.to_numpy() if within is None else column.to_numpy(dtype=within)]


def _of_polars(name: str, column: Any) -> list[Part]:
    if not hasattr(column, "get_chunks"):
        return [np.asarray(_require_table(name, column))]
    is_whole = column.n_chunks() == 1 or type(column.dtype).__name__ == "Object"  # which has none
    return [_polars_part(name, part) for part in ([column] if is_whole else column.get_chunks())]


def _polars_part(name: str, part: Any) -> Part:
    _require_no_nulls(name, part.null_count(), len(part))
    kind = type(part.dtype).__name__
    if kind == "Object":
        return part.to_list()
    if kind == "List":
        width = _one_length(name, part.list.len().to_numpy())
        if width == 0:
            return np.empty((len(part), 0))
        part = part.list.to_array(width)
    if kind in ("Array", "List"):
        elements = part.reshape((-1,))
        _require_no_nulls(name, elements.null_count(), len(elements), "elements")
    return part.to_numpy()


def _of_arrow(name: str, column: Any) -> list[Part]:
    if not hasattr(column, "null_count"):
        refuse(name, column)
    chunks = getattr(column, "chunks", None)
    if chunks is None:
        return [_arrow_part(name, column)]
    return [_arrow_part(name, chunk) for chunk in chunks or [column.combine_chunks()]]


def _arrow_part(name: str, part: Any) -> Part:
    _require_no_nulls(name, part.null_count, len(part))
    part = getattr(part, "storage", part)  # of an extension type: tensors of a fixed shape
    if type(part).__name__ not in _LISTS:
        return part.to_numpy(zero_copy_only=False)
    width = getattr(part.type, "list_size", None)
    if width is None:
        width = _one_length(name, np.diff(part.offsets.to_numpy()))
    flat = part.flatten()
    _require_no_nulls(name, flat.null_count, len(flat), "elements")
    return flat.to_numpy(zero_copy_only=False).reshape(len(part), width)


def _one_length(name: str, lengths: np.ndarray) -> int:
    least, most = (int(lengths.min()), int(lengths.max())) if len(lengths) else (0, 0)
    if least != most:
        raise ValueError(f"{name} must have vectors of one length; got {least} to {most}")
    return most


def _require_no_nulls(name: str, nulls: int, count: int, what: str = "rows") -> None:
    if nulls:
        raise ValueError(f"{name} must have no nulls; got {nulls} among {count} {what}")


def _require_table(name: str, value: Any) -> Any:
    """A data frame, whose columns are the channels."""
    if not all(hasattr(type(value), has) for has in ("columns", "__array__")):
        refuse(name, value)
    return value


def refuse(name: str, value: object) -> NoReturn:
    raise TypeError(f"{name} must be a column of vectors or an array; got {called(value)}")


def called(value: object) -> str:
    """The name of its type, as its users know it."""
    library = _library(value)
    return type(value).__name__ if library is None else f"{library}.{type(value).__name__}"
