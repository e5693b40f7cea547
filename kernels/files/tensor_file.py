"""Tensors in a safetensors file: opened memory-mapped, written piece by piece, with checksums.

The format is a length, a JSON header and the bytes (safetensors' README, "Format"). Its own writer
wants every tensor in memory at once; a bank larger than memory cannot have that. The last tensor of
a file written here, "flashmatch.checksums", says what the others were.
"""

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from . import checksums
from .array_file import is_array_file, open_array
from .checksums import Running, as_bytes, block_count
from .whole_file import whole_file

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_CHECKSUMS = "flashmatch.checksums"
_KIND = f"crc32 of {checksums.BLOCK_BYTES}"
BANK = "flashmatch.PrototypeBank"
"""How the format of a bank's file begins."""

Part = tuple[torch.dtype, tuple[int, ...], Iterable[Tensor]]
"""What a tensor will be, and its pieces along the first axis, made when their turn comes."""


@dataclass(frozen=True)
class TensorFile:
    """A safetensors file: its tensors, memory-mapped, and its metadata."""

    path: str
    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    checksums: dict[str, list[int]] = field(default_factory=dict)
    """Of each tensor's blocks of rows; none where the file has none."""
    status: os.stat_result | None = None
    """Of the file when it was opened."""

    def check(self, *names: str) -> None:
        """Read these tensors, or all, and raise ValueError where they are not what was written."""
        self._require_whole()
        for name in names or self.tensors:
            tensor = torch.atleast_1d(self.tensors[name])
            step = checksums.block_rows(tensor.shape, tensor.dtype)
            for block, expected in enumerate(self.checksums[name]):
                rows = tensor[block * step : (block + 1) * step]
                running = Running(tensor.dtype, tensor.shape)
                running.add(as_bytes(rows))
                if running.ended() != [expected]:
                    last = block * step + len(rows) - 1
                    self.refuse(f"rows {block * step} to {last} of {name!r} have changed")

    def _require_whole(self) -> None:
        """A file that is cut short stays mapped, and whoever reads what it lost is killed."""
        try:
            now = os.stat(self.path)
        except OSError:  # it is mapped still
            return
        before = self.status or now
        is_same = (now.st_dev, now.st_ino) == (before.st_dev, before.st_ino)
        if is_same and now.st_size < before.st_size:
            self.refuse(f"it was cut from {before.st_size} bytes to {now.st_size}")

    def refuse(self, what: str) -> NoReturn:
        raise ValueError(f"path must be an undamaged file; got {self.path!r}: {what}")


def open_mapped(path: str | os.PathLike) -> TensorFile:
    """The tensors of a safetensors file, memory-mapped; of its checksums, those of the header.

    Raises:
        FileNotFoundError, ValueError: no such file, not a safetensors file, or one whose header
            has changed since it was written.
    """
    require_existing(path)
    found = _opened(Path(path))
    sums = found.tensors.pop(_CHECKSUMS, None)
    if sums is not None or _CHECKSUMS in found.metadata:  # either asks for the other
        counts = {name: block_count(x.shape, x.dtype) for name, x in found.tensors.items()}
        if sums is None or sums.dtype != torch.int64 or sums.shape != (2 + sum(counts.values()),):
            found.refuse("its checksums are not those of its tensors")
        found.checksums.update(_read(found, sums.tolist(), counts))
    return found


def require_existing(path: str | os.PathLike) -> None:
    if not os.path.isfile(path):
        what = "the folder " if os.path.isdir(path) else ""
        raise FileNotFoundError(f"path must be an existing file; got {what}{os.fspath(path)!r}")


def _opened(path: Path, attempts: int = 100) -> TensorFile:
    """safetensors opens a path twice, for its header and for its bytes: in between, whoever saves
    may have put another file there. Then it is opened again."""
    status = os.stat(path)
    try:
        found = _mapped(path, status)
    except ValueError:
        if attempts and _is_another(path, status):
            return _opened(path, attempts - 1)
        raise
    return _opened(path, attempts - 1) if attempts and _is_another(path, status) else found


def _mapped(path: Path, status: os.stat_result) -> TensorFile:
    from safetensors import safe_open  # a search of tensors needs none of it

    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = dict(file.metadata() or {})
    except (OSError, MemoryError):
        raise
    except Exception as error:  # of a dtype, say, that only the file knows
        raise ValueError(f"path must be a safetensors file; got {str(path)!r}: {error}") from error
    return TensorFile(str(path), tensors, metadata, status=status)


def _is_another(path: Path, status: os.stat_result) -> bool:
    """Whether the file there is not the one that had ``status``. A new one may have its number."""
    now = os.stat(path)
    then = status.st_dev, status.st_ino, status.st_mtime_ns
    return (now.st_dev, now.st_ino, now.st_mtime_ns) != then


def _read(file: TensorFile, sums: list[int], counts: dict[str, int]) -> dict[str, list[int]]:
    """The checksums of each tensor, whose own, and the header's, are checked here."""
    header, *blocks, last = sums
    if min(sums) < 0 or max(sums) >> 32 or last != checksums.of_all([header, *blocks]):
        file.refuse("its checksums have changed")
    about = {name: (x.dtype, x.shape) for name, x in file.tensors.items()}
    if file.metadata.get(_CHECKSUMS) != _KIND or header != checksums.of_header(
        file.metadata, about
    ):
        file.refuse("its header has changed")
    taken = iter(blocks)
    return {name: [next(taken) for _ in range(counts[name])] for name in sorted(counts)}


def open_matrix(path: str | os.PathLike) -> Tensor:
    """The matrix of an .npy file, or the tensor "prototypes" of another, or else its only matrix.

    Memory-mapped. Not of a bank's file, which has ids and a metric, too: ValueError.
    """
    require_existing(path)
    if is_array_file(path):
        return open_array(path)
    file = open_mapped(path)
    if is_bank(file):
        raise ValueError(
            f"path must be a file of vectors alone; got {str(path)!r} of a PrototypeBank, with ids "
            "and a metric: PrototypeBank.load opens it"
        )
    tensors = file.tensors
    matrices = {name: t for name, t in tensors.items() if t.ndim == 2 and t.is_floating_point()}
    if "prototypes" in matrices:
        return matrices["prototypes"]
    if len(matrices) != 1:
        raise ValueError(
            "path must be a file of a floating matrix called 'prototypes', or of just one; "
            f"got {str(path)!r} of {sorted(tensors)[:10]}"
        )
    return next(iter(matrices.values()))


def is_bank(file: TensorFile) -> bool:
    return file.metadata.get("format", "").startswith(BANK)


def write(path: str | os.PathLike, parts: dict[str, Part], metadata: dict[str, str]) -> None:
    """Write ``parts`` to ``path``, with checksums; the file appears whole or not at all."""
    metadata = metadata | {_CHECKSUMS: _KIND}
    sums: dict[str, list[int]] = {}
    with whole_file(path) as file:
        header = _header(parts, metadata)
        file.write(len(header).to_bytes(8, "little"))
        file.write(header)
        for name, (dtype, shape, pieces) in parts.items():
            running = Running(dtype, shape)
            for block in _blocks(pieces):
                data = as_bytes(block.to("cpu", dtype))
                running.add(data)
                file.write(data)
            sums[name] = running.ended()
        about = {name: (dtype, shape) for name, (dtype, shape, _) in parts.items()}
        values = [checksums.of_header(metadata, about)]
        values += [value for name in sorted(sums) for value in sums[name]]
        values.append(checksums.of_all(values))
        file.write(as_bytes(torch.tensor(values, dtype=torch.int64, device="cpu")))


def _header(parts: dict[str, Part], metadata: dict[str, str]) -> bytes:
    shapes = {name: (dtype, shape) for name, (dtype, shape, _) in parts.items()}
    count = 2 + sum(block_count(shape, dtype) for dtype, shape in shapes.values())
    shapes[_CHECKSUMS] = torch.int64, (count,)
    entries: dict[str, object] = {"__metadata__": metadata}
    end = 0
    for name, (dtype, shape) in shapes.items():
        start, end = end, end + torch.Size(shape).numel() * dtype.itemsize
        entries[name] = {"dtype": _NAMES[dtype], "shape": shape, "data_offsets": [start, end]}
    header = json.dumps(entries).encode()
    return header + b" " * (-len(header) % 8)


def _blocks(pieces: Iterable[Tensor]) -> Iterator[Tensor]:
    """At most 16 Mi elements at a time."""
    for piece in pieces:
        yield from piece.split(max(1, (1 << 24) // max(1, piece[:1].numel())))
