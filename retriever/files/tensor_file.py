"""Tensor files: what a path holds, read without executing anything it contains."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...kernels.contract.naming import named
from ...kernels.files import tensor_file
from .untrusted import require_no_bomb, require_sizes

SUFFIXES = (".safetensors", ".pt", ".pth")


def require_file(path: str | os.PathLike[str], argument: str) -> Path:
    """``path`` as a Path to an existing tensor file.

    Raises:
        ValueError: a suffix that is not among ``SUFFIXES``.
        FileNotFoundError, IsADirectoryError: no such file, or a folder.
    """
    path = Path(path)
    require_existing(path, argument)
    require_suffix(path, argument)
    return path


def require_existing(path: Path, argument: str) -> None:
    if path.is_dir():
        raise IsADirectoryError(f"{argument} must be a file; got the folder {str(path)!r}")
    if not path.is_file():
        why = "is no regular file" if path.exists() else "does not exist"
        raise FileNotFoundError(
            f"{argument} must be an existing file; got {str(path)!r}, which {why}"
        )


def require_suffix(path: Path, argument: str) -> None:
    if path.suffix not in SUFFIXES:
        of_numpy = path.suffix in (".npy", ".npz")
        raise ValueError(
            f"{argument} must end in {', '.join(SUFFIXES)}; got {str(path)!r}"
            + of_numpy * ". What numpy.load reads from it can be given itself"
        )


def read_file(path: Path, argument: str) -> Any:
    """The tensors in ``path``, on the CPU: a dict of them, or whatever tensors-only .pt holds.

    Nothing that the file contains is executed, nor believed: what it would take to unpack it, or
    to lay out its tensors, is known before memory is taken.

    Raises:
        FileNotFoundError, IsADirectoryError, OSError: no such file, or it may not be read.
        ValueError: the file is damaged, or holds pickled objects besides tensors and containers.
    """
    require_existing(path, argument)
    if path.suffix == ".safetensors":
        return _read_safetensors(path, argument)
    with open(path, "rb") as file:
        try:
            require_no_bomb(file)
            content = torch.load(file, map_location="cpu", weights_only=True)
            require_sizes(content, os.fstat(file.fileno()).st_size)
            return content
        except MemoryError:
            raise
        except Exception as error:  # of whatever the bytes were taken for
            raise ValueError(
                f"{argument}: {str(path)!r} cannot be read as plain tensors ({_reason(error)}). "
                "Pickled objects are refused because loading them runs code; save tensors with "
                "torch.save or safetensors"
            ) from error


def is_bank(path: Path) -> bool:
    """Whether a ``PrototypeBank`` wrote this file."""
    return path.suffix == ".safetensors" and tensor_file.is_bank(tensor_file.open_mapped(path))


def _read_safetensors(path: Path, argument: str) -> dict[str, Tensor]:
    with named(path=argument):
        file = tensor_file.open_mapped(path)
        if file.checksums:
            file.check()
        return file.tensors


def _reason(error: Exception) -> str:
    line = str(error).strip().splitlines()[0][:200] if str(error) else ""
    return f"{type(error).__name__}: {line}"
