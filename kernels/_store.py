"""Tensors in a safetensors file: opened memory-mapped, written piece by piece and all or nothing.

The format is a length, a JSON header and the bytes (safetensors' README, "Format"). Its own writer
wants every tensor in memory at once; a bank larger than memory cannot have that.
"""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

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

Part = tuple[torch.dtype, tuple[int, ...], Iterable[Tensor]]
"""What a tensor will be, and its pieces along the first axis, made when their turn comes."""


def open_mapped(path: str | os.PathLike) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file, memory-mapped, and its metadata.

    Raises:
        FileNotFoundError, ValueError: no such file, or not a safetensors file.
    """
    from safetensors import SafetensorError, safe_open  # a search of tensors needs none of it

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"path must be a safetensors file; got {str(path)!r}")
    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"path must be a safetensors file; {str(path)!r}: {error}") from error


def open_matrix(path: str | os.PathLike) -> Tensor:
    """The tensor "prototypes" of a file, or else its only matrix, memory-mapped."""
    tensors, _ = open_mapped(path)
    matrices = {name: t for name, t in tensors.items() if t.ndim == 2 and t.is_floating_point()}
    if "prototypes" in matrices:
        return matrices["prototypes"]
    if len(matrices) != 1:
        raise ValueError(
            f"{str(path)!r} must hold a floating matrix called 'prototypes', or just one; "
            f"got {sorted(tensors)[:10]}"
        )
    return next(iter(matrices.values()))


def write(path: str | os.PathLike, parts: dict[str, Part], metadata: dict[str, str]) -> None:
    """Write ``parts`` to ``path``; the file appears whole or not at all."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(partial, "wb") as file:
            header = _header(parts, metadata)
            file.write(len(header).to_bytes(8, "little"))
            file.write(header)
            for dtype, _, pieces in parts.values():
                for block in _blocks(pieces):
                    file.write(_bytes(block.to("cpu", dtype)))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _header(parts: dict[str, Part], metadata: dict[str, str]) -> bytes:
    entries: dict[str, object] = {"__metadata__": metadata}
    end = 0
    for name, (dtype, shape, _) in parts.items():
        start, end = end, end + torch.Size(shape).numel() * dtype.itemsize
        entries[name] = {"dtype": _NAMES[dtype], "shape": shape, "data_offsets": [start, end]}
    header = json.dumps(entries).encode()
    return header + b" " * (-len(header) % 8)


def _blocks(pieces: Iterable[Tensor]) -> Iterator[Tensor]:
    """At most 16 Mi elements at a time."""
    for piece in pieces:
        yield from piece.split(max(1, (1 << 24) // max(1, piece[:1].numel())))


def _bytes(tensor: Tensor) -> memoryview:
    if tensor.numel() == 0:  # whose strides no view likes
        return memoryview(b"")
    return tensor.contiguous().flatten().view(torch.uint8).numpy().data
