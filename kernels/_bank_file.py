"""The file of a bank: a safetensors file of its vectors, ids and codes."""

import json
import os
from dataclasses import astuple

import torch
from torch import Tensor

from . import _store
from ._codes import Codes, Frame, Layout
from ._coding import Coder
from ._collection import Collection
from ._rotation import Rotation

FORMAT = "flashmatch.PrototypeBank 1"


def save(path: str | os.PathLike, collection: Collection, coder: Coder, nonfinite: str) -> None:
    """Rows that are there; codes only if nothing was removed, else ``load`` makes them anew."""
    ids = collection.ids.by_row[collection.ids.present]
    shape = (len(collection), collection.rows.channels)
    parts: dict[str, _store.Part] = {
        "prototypes": (collection.rows.dtype, shape, collection.present_pieces()),
        "ids": (ids.dtype, tuple(ids.shape), [ids]),
    }
    about: dict[str, object] = {
        "metric": coder.metric,
        "nonfinite": nonfinite,
        "screen": coder.screen,
    }
    about["following_id"] = collection.ids.following
    codes = coder.codes
    if codes is not None and len(collection) == len(collection.ids):
        for name, tensor in codes.in_use().items():
            parts[name] = (tensor.dtype, tuple(tensor.shape), [tensor])
        rotation = codes.frame.rotation
        nonfinite_rows = collection.nonfinite
        parts["nonfinite"] = (torch.int64, tuple(nonfinite_rows.shape), [nonfinite_rows])
        about["seed"] = None if rotation is None else rotation.seed
        about["layout"] = astuple(codes.layout)
        about["fitted_on"] = coder.fitted_on
    _store.write(path, parts, {"format": FORMAT, "bank": json.dumps(about)})


def load(path: str | os.PathLike, device: torch.device) -> tuple[Collection, Coder, str]:
    """Collection, coder and nonfinite."""
    tensors, metadata = _store.open_mapped(path)
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"path must be a file that PrototypeBank.save wrote ({FORMAT!r}); {os.fspath(path)!r} "
            f"says {metadata.get('format')!r}"
        )
    about = json.loads(metadata["bank"])
    vectors, ids = tensors.pop("prototypes"), tensors.pop("ids")
    collection = Collection(vectors.shape[1], vectors.dtype, device)
    collection.append([vectors], ids.clone())
    collection.ids.following = about["following_id"]
    coder = Coder(collection, about["metric"], "float" if about["screen"] == "float" else "auto")
    layout = Layout(*about["layout"]) if "layout" in about else None
    if layout is None or layout != coder.layout:
        coder.code(0, True, progress=None)
        return collection, coder, about["nonfinite"]
    coder.codes = _codes(tensors, about, layout, len(vectors), device)
    coder.fitted_on = about["fitted_on"]
    collection.exclude(tensors["nonfinite"])
    return collection, coder, about["nonfinite"]


def _codes(
    tensors: dict[str, Tensor], about: dict, layout: Layout, count: int, device: torch.device
) -> Codes:
    origin = tensors["origin"].to(device, copy=True)
    rotation = None
    if about["seed"] is not None:
        rotation = Rotation(len(origin), about["seed"], device)
    codes = Codes(Frame(about["metric"], origin, rotation), layout, count, len(origin))
    codes.restore(tensors, count)
    return codes
