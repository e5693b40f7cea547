"""Indexes in files, and indexes of FAISS's own."""

import os
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from ...kernels import PrototypeBank, _bank_file
from ...kernels._succession import Succession
from .arrays import METRIC_INNER_PRODUCT, METRIC_L2, METRICS
from .contents import Contents
from .flat import IndexFlat, IndexFlatIP, IndexFlatL2
from .id_map import IndexIDMap, IndexIDMap2
from .index import Index

_FLAT = {METRIC_INNER_PRODUCT: IndexFlatIP, METRIC_L2: IndexFlatL2}
_WITH_IDS = {"IndexIDMap": IndexIDMap, "IndexIDMap2": IndexIDMap2}
_ID_MAP, _INDEX = "id_map", "index"


def write_index(index: Index, fname: str | os.PathLike) -> None:
    """Write an index to a safetensors file, which appears whole or not at all.

    It is the file of a ``PrototypeBank``, which can load it, with the ids of an ``IndexIDMap`` as
    tensor "id_map". FAISS cannot read it.
    """
    if not isinstance(index, Index):
        raise TypeError(f"index must be an index of this module; got {type(index).__name__}")
    bank = index._flat._prepared()
    if isinstance(index, IndexIDMap):
        ids = torch.from_numpy(index.id_map)
        _bank_file.save(fname, bank._state, {_ID_MAP: ids}, {_INDEX: type(index).__name__})
    else:
        bank.save(fname)


def read_index(fname: str | os.PathLike, *, device: torch.device | str | None = None) -> Index:
    """The index that ``write_index`` wrote, its vectors memory-mapped; or, with FAISS installed,
    a flat index that FAISS wrote.

    As FAISS does, an ``IndexFlat`` comes back as ``IndexFlatIP`` or ``IndexFlatL2``.

    Raises:
        FileNotFoundError, ValueError: no such file, or not the file of such an index.
    """
    path = Path(fname)
    if not path.is_file():
        raise FileNotFoundError(f"fname must be the file of an index; got {str(path)!r}")
    if _is_faiss(path):
        return from_faiss(_faiss().read_index(str(path)), device=device)
    bank = PrototypeBank.load(path, device)
    metrics = {name: metric for metric, name in METRICS.items()}
    if bank.metric not in metrics:
        raise ValueError(f"fname must hold a bank for 'dot' or 'l2'; got {bank.metric!r}")
    flat = _FLAT[metrics[bank.metric]](bank.dim, device=device)
    file = bank._state.file
    assert file is not None  # it was loaded from one
    if _INDEX not in file.metadata and _ID_MAP not in file.tensors:
        flat._states = Succession(Contents(bank))
        return flat
    kind, ids = _WITH_IDS.get(file.metadata.get(_INDEX, "")), file.tensors.get(_ID_MAP)
    if kind is None or ids is None or ids.dtype != torch.int64 or ids.shape != (len(bank),):
        file.refuse("it has no id map of its rows")
    if file.checksums:
        file.check(_ID_MAP)
    wrapped = kind(flat)
    flat._states = Succession(Contents(bank, ids=(ids.numpy(),)))
    return wrapped


def from_faiss(index: Any, *, device: torch.device | str | None = None) -> Index:
    """A copy of an index of FAISS's own: flat, by scalar product or L2, with or without ids."""
    faiss = _faiss()
    outside = faiss.downcast_index(index)  # does not own: ``index`` has to live on
    kind = _WITH_IDS.get(type(outside).__name__)
    inside = outside if kind is None else faiss.downcast_index(outside.index)
    name, d, metric = type(inside).__name__, inside.d, inside.metric_type
    if name not in ("IndexFlat", "IndexFlatIP", "IndexFlatL2") or metric not in METRICS:
        raise ValueError(
            "index must be an IndexFlat by scalar product or L2, or an IndexIDMap of one; got "
            f"{name} with metric {metric}"
        )
    vectors = inside.reconstruct_n(0, inside.ntotal)
    typed = name != "IndexFlat"
    flat = _FLAT[metric](d, device=device) if typed else IndexFlat(d, metric, device=device)
    if kind is None:
        flat.add(vectors)
        return flat
    mapped = kind(flat)
    mapped.add_with_ids(vectors, faiss.vector_to_array(outside.id_map))
    return mapped


def _is_faiss(path: Path) -> bool:
    """FAISS's files begin with a letter I and three more; safetensors' with a small number."""
    with open(path, "rb") as file:
        tag = file.read(4)
    return len(tag) == 4 and tag[:1] == b"I" and tag.isalnum()


def _faiss() -> Any:
    try:
        return import_module("faiss")
    except ImportError as error:
        raise ImportError(
            "an index of FAISS's own can only be read with faiss installed"
        ) from error
