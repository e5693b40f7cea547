"""The file of a bank: a safetensors file of its vectors, ids and codes, none of which is believed.

What ``load`` reads into memory is compared with its checksums, and then looked at: whoever can
write checksums can write anything. Of what holds true only of the vectors, ``check`` convinces
itself (storage/audit.py).
"""

import json
import os
from collections.abc import Mapping
from dataclasses import astuple, replace
from typing import Any

import torch
from torch import Tensor

from ..codes.frame import Frame
from ..codes.layout import Layout
from ..codes.pages import Codes
from ..codes.rotation import Rotation
from ..contract.arguments import require_vectors
from ..contract.finite import NONFINITE
from ..contract.metrics import METRICS
from ..files.tensor_file import BANK, Part, TensorFile, open_mapped, write
from ..proofs.fp32 import LARGEST_NORM
from .coder import SCREENS, Coder
from .collection import Collection
from .ids.by_row import Checked, Ids
from .ids.given import as_ids, require_unique
from .ids.text import decoded, encoded
from .prepared import ChooseLayout, Prepared

FORMAT = f"{BANK} 2"
FORMAT_WITH_NAMES = f"{BANK} 3"
"""Of banks whose ids are strings. Who knows only 2 refuses it, and does not lose the names."""
FORMAT_WITHOUT_CHECKSUMS = f"{BANK} 1"
"""Until November 2026. Nothing tells whether its vectors are those saved; codes are made anew."""

CHECKED_BYTES = 1 << 26
"""Vectors of up to 64 MiB are checked when they are opened: it takes some 20 ms."""


def save(
    path: str | os.PathLike,
    state: Prepared,
    more: Mapping[str, Tensor],
    metadata: Mapping[str, str],
) -> None:
    """Rows that are there; codes only if nothing was removed, else ``load`` makes them anew.

    ``more`` and ``metadata`` are somebody else's, for whom ``load`` leaves them alone.
    """
    collection, coder = state.collection, state.coder
    present = collection.ids.present[collection.nonfinite]
    nonfinite = collection.nonfinite[present].to(collection.device)
    shape = (len(collection), collection.rows.channels)
    parts: dict[str, Part] = {
        "prototypes": (collection.rows.dtype, shape, collection.present_pieces()),
        **_parts_of_ids(collection.ids),
        "nonfinite": _part(collection.positions(nonfinite)),
    }
    about: dict[str, object] = {
        "metric": coder.metric,
        "nonfinite": state.nonfinite,
        "screen": coder.asked,
        "too_large": coder.too_large,
        "following_id": collection.ids.following,
    }
    if coder.codes is not None and len(collection) == collection.ids.count:
        for name, pieces in coder.codes.in_use().items():
            parts[name] = _part(*pieces)
        rows = parts["place"][1][0]
        parts["codes"] = torch.int8, (rows, coder.codes.width), coder.codes.code_pieces()
        rotation = coder.codes.frame.rotation
        about["seed"] = None if rotation is None else rotation.seed
        about["layout"] = astuple(coder.codes.layout)
        about["fitted_on"] = coder.fitted_on
    parts |= {name: _part(tensor) for name, tensor in more.items()}
    version = FORMAT if collection.ids.names is None else FORMAT_WITH_NAMES
    write(path, parts, {"format": version, "bank": json.dumps(about), **metadata})


def _parts_of_ids(ids: Ids) -> dict[str, Part]:
    if ids.names is None:
        return {"ids": _part(ids.in_order)}
    text, ends = encoded(ids.names.by_row[ids.present.numpy()])
    return {"names": _part(text), "name_ends": _part(ends)}


def _part(*pieces: Tensor) -> Part:
    first = pieces[0]
    return first.dtype, (sum(map(len, pieces)), *first.shape[1:]), pieces


def load(
    path: str | os.PathLike, device: torch.device, checks_few: bool, layout_for: ChooseLayout
) -> Prepared:
    """The bank in a file; ``checks_few``: its vectors are read, too, if they are few.

    Raises:
        FileNotFoundError, ValueError: naming ``path`` and what is wrong.
    """
    file = open_mapped(path)
    version = file.metadata.get("format")
    if version not in (FORMAT, FORMAT_WITH_NAMES, FORMAT_WITHOUT_CHECKSUMS):
        raise ValueError(
            f"path must be a file that PrototypeBank.save wrote ({FORMAT!r}); got {file.path!r}, "
            f"of format {version!r}"
        )
    is_current = version != FORMAT_WITHOUT_CHECKSUMS
    if is_current and not file.checksums:
        file.refuse("its checksums are gone")
    return _Reader(file, is_current, layout_for).opened(device, checks_few)


class _Reader:
    """Takes from a file what it must hold, and refuses what cannot be right."""

    def __init__(self, file: TensorFile, is_current: bool, layout_for: ChooseLayout) -> None:
        self.file, self.is_current, self.layout_for = file, is_current, layout_for
        try:
            about = json.loads(file.metadata["bank"])
        except (KeyError, ValueError, RecursionError):
            about = None
        self.about: dict[str, Any] = about if isinstance(about, dict) else {}

    def opened(self, device: torch.device, checks_few: bool) -> Prepared:
        nonfinite = self._choice("nonfinite", NONFINITE)
        screen = self._choice("screen", SCREENS)
        vectors = self._vectors()
        if self.is_current and checks_few and vectors.nbytes <= CHECKED_BYTES:
            self.file.check("prototypes")
        collection = self._collection(vectors, device)
        if not self.is_current:
            # It says what was in use, not what was asked for.
            screen = "float" if screen == "float" else "auto"
            collection, coder = self._coded(collection, self._coder(screen, collection), nonfinite)
            return Prepared(collection, coder, nonfinite, self.file)
        collection = collection.excluding(self._nonfinite(len(vectors), nonfinite))
        coder = self._coder(screen, collection)
        if self._value("too_large", bool):
            coder = replace(coder, layout=None, too_large=True)
        if coder.layout is not None and self.about.get("layout") == list(astuple(coder.layout)):
            coder = self._with_codes(coder, coder.layout, collection)
        elif coder.layout is not None:
            collection, coder = self._coded(collection, coder, nonfinite)
        return Prepared(collection, coder, nonfinite, self.file)

    def _coder(self, asked: str, collection: Collection) -> Coder:
        """Without codes yet. What was asked for stays asked for where it cannot be had."""
        try:
            layout = self.layout_for(collection.device, collection.rows.channels, asked)
        except ValueError:
            layout = None
        return Coder(self._choice("metric", METRICS), asked, layout)

    def _coded(
        self, collection: Collection, coder: Coder, nonfinite: str
    ) -> tuple[Collection, Coder]:
        try:
            return coder.coded(collection, 0, nonfinite == "exclude", progress=None)
        except ValueError as error:
            self.file.refuse(str(error))

    def _collection(self, vectors: Tensor, device: torch.device) -> Collection:
        ids = self._ids(len(vectors))
        collection = Collection(vectors.shape[1], vectors.dtype, device)
        collection = collection.appended([vectors], ids)
        following = self._value("following_id", int)
        if not collection.ids.following <= following <= 1 << 63:
            self.file.refuse(f"its next id is {following}")
        return collection.with_following_id(following)

    def _ids(self, count: int) -> Checked:
        is_named = self.file.metadata["format"] == FORMAT_WITH_NAMES
        text = self._tensor("names", torch.uint8, None) if is_named else None
        name = "ids" if text is None else "name_ends"
        numbers = self._tensor(name, torch.int64, (count,))
        try:
            ids = as_ids(numbers) if text is None else decoded(text, numbers)
            require_unique(ids)
        except ValueError as error:
            self.file.refuse(str(error))
        return ids

    def _vectors(self) -> Tensor:
        vectors: Any = self.file.tensors.get("prototypes")
        try:
            require_vectors("prototypes", vectors)
        except (TypeError, ValueError) as error:
            self.file.refuse(str(error))
        return vectors

    def _nonfinite(self, count: int, nonfinite: str) -> Tensor:
        rows = self._tensor("nonfinite", torch.int64, None)
        if rows.ndim != 1 or bool((rows.diff() <= 0).any()):
            self.file.refuse("its nonfinite rows do not ascend")
        if len(rows) and not (
            nonfinite == "exclude" and 0 <= int(rows[0]) <= int(rows[-1]) < count
        ):
            self.file.refuse(f"its nonfinite rows are {rows[:5].tolist()}")
        return rows.clone()

    def _with_codes(self, coder: Coder, layout: Layout, collection: Collection) -> Coder:
        device, channels = collection.device, collection.rows.channels
        origin = self._tensor("origin", torch.float32, (channels,)).to(device, copy=True)
        seed = self.about.get("seed")
        if seed is not None and not (type(seed) is int and 0 <= seed < 1 << 63):
            self.file.refuse(f"its seed is {seed!r}")
        if not bool(origin.isfinite().all()):
            self.file.refuse("its origin is not finite")
        rotation = None if seed is None else Rotation(channels, seed, device)
        frame = Frame(coder.metric, origin, rotation)
        codes = Codes(frame, layout, len(collection), channels)
        codes.restore(len(collection), self._tensor)
        self._require_sound(codes, collection)
        fitted_on = self._value("fitted_on", int)
        if fitted_on < 0:
            self.file.refuse(f"its frame is fitted on {fitted_on} rows")
        return replace(coder, codes=codes, fitted_on=fitted_on)

    def _require_sound(self, codes: Codes, collection: Collection) -> None:
        """What codes must be whatever the vectors are, so that no search reads where none are."""
        span, device = codes.layout.span, codes.device
        in_order = torch.arange(span, device=device)
        rows = codes.row_in_page.view(-1, span).sort(1).values
        self._require(rows == in_order, "places are no permutation of a page")
        scale, error, size, bias = codes.bounds.unbind(1)
        self._require((scale > 0) & (scale + bias).isfinite(), "scales are not positive numbers")
        self._require((error >= 0) & (size >= 0) & (error + size).isfinite(), "bounds are negative")
        self._require((codes.norms >= 0) & (codes.norms <= LARGEST_NORM), "norms are no norms")
        saved, matchable = codes.unmatchable.clone(), collection.matchable()
        if matchable is None:
            matchable = torch.ones(len(collection), dtype=torch.bool, device=device)
        codes.close(torch.arange(codes.pages, device=device), matchable)
        same = saved == codes.unmatchable
        self._require(same, "dead codes are not those of rows that never match")

    def _require(self, sound: Tensor, what: str) -> None:
        if not bool(sound.all()):
            self.file.refuse(f"its {what}")

    def _choice(self, name: str, choices: tuple[str, ...]) -> str:
        value = self.about.get(name)
        if not isinstance(value, str) or value not in choices:
            self.file.refuse(f"its {name} is {value!r}, not one of {', '.join(choices)}")
        return str(value)

    def _value(self, name: str, kind: type) -> Any:
        value = self.about.get(name)
        if type(value) is not kind:
            self.file.refuse(f"its {name} is {value!r}")
        return value

    def _tensor(self, name: str, dtype: torch.dtype, shape: tuple[int, ...] | None) -> Tensor:
        """Read, and compared with its checksums."""
        tensor = self.file.tensors.get(name)
        if tensor is None:
            self.file.refuse(f"it has no {name}")
        if tensor.dtype != dtype or (shape is not None and tensor.shape != shape):
            self.file.refuse(f"its {name} are {tensor.dtype} of shape {tuple(tensor.shape)}")
        if self.is_current:
            self.file.check(name)
        return tensor
