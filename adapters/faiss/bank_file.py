"""An index as the file of a ``PrototypeBank``, which maps its vectors, and has checksums."""

import os
from typing import Any

import torch

from ...kernels import PrototypeBank
from ...kernels.concurrency.succession import Succession
from .contents import Contents
from .errors import InvalidIndexError
from .id_map import IndexIDMap, IndexIDMap2
from .index import Index
from .metrics import METRICS
from .pretransform import IndexPreTransform, NormalizationTransform
from .wire import FLAT

_WITH_IDS = {"IndexIDMap": IndexIDMap, "IndexIDMap2": IndexIDMap2}
_ID_MAP, _INDEX = "id_map", "index"


def write(index: Index, path: str | os.PathLike) -> None:
    """The bank of its vectors; ids as tensor "id_map", and what is around the flat index by name.

    Raises:
        ValueError, OSError: ``path`` is no file, or cannot be written.
    """
    contents = index._flat._prepared_contents()
    assert contents.bank is not None
    more, around, inner = {}, [], index
    while isinstance(inner, (IndexIDMap, IndexPreTransform)):
        around.append(type(inner).__name__)
        inner = inner.index
    if index._has_ids:
        (ids,) = contents.with_one_id_map().ids
        more[_ID_MAP] = torch.from_numpy(ids)
    metadata = {_INDEX: ",".join(around)} if around else {}
    contents.bank._save(path, more, metadata)


def read(path: str | os.PathLike, argument: str, device: torch.device) -> Index:
    """The index that ``write`` wrote, its vectors memory-mapped.

    Raises:
        InvalidIndexError: naming ``argument``, and what is wrong.
    """
    try:
        return _read(PrototypeBank.load(path, device), device)
    except ValueError as error:
        _, _, what = str(error).partition("; ")
        raise InvalidIndexError(f"{argument} must hold an undamaged index; {what or error}") from (
            error
        )


def _read(bank: PrototypeBank, device: torch.device) -> Index:
    file: Any = bank._state.file
    metrics = {name: metric for metric, name in METRICS.items()}
    if bank.metric not in metrics:
        file.refuse(f"its metric is {bank.metric!r}, not 'dot' or 'l2'")
    index: Index = FLAT[metrics[bank.metric]](bank.dim, device=device)
    around = file.metadata.get(_INDEX, "")
    try:
        for name in reversed(around.split(",") if around else []):
            if name == IndexPreTransform.__name__:
                index = IndexPreTransform(NormalizationTransform(bank.dim), index)
            else:
                index = _WITH_IDS[name](index)
    except (KeyError, TypeError):
        file.refuse(f"its index is {around!r}")
    index._flat._states = Succession(Contents(bank, ids=_ids(index, bank, file)))
    return index


def _ids(index: Index, bank: PrototypeBank, file: Any) -> tuple:
    ids: Any = file.tensors.get(_ID_MAP)
    if (ids is not None) != index._has_ids:
        file.refuse("it has no id map of its rows")
    if ids is None:
        return ()
    if ids.dtype != torch.int64 or ids.shape != (len(bank),):
        file.refuse("it has no id map of its rows")
    if file.checksums:
        file.check(_ID_MAP)
    return (ids.numpy(),)
