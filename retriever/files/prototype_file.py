"""Files of prototypes: a matrix (M, C), and the ids of its rows where it has them."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor

from ...kernels.contract.arguments import require_dense
from ...kernels.files import tensor_file
from ...kernels.files.whole_file import whole_file
from .tensor_file import is_bank, read_file, require_file, require_suffix

_KEYS = ("prototype_vecs", "prototypes", "features")
_IDS_KEY = "prototype_ids"


def require_matrix(vectors: Tensor, name: str = "prototype") -> None:
    """Real numbers of shape (M, C) with C >= 1, M >= 0, in a dense tensor."""
    require_dense(name, vectors)
    if vectors.is_quantized or vectors.is_complex() or vectors.dtype == torch.bool:
        raise ValueError(f"{name} must hold real numbers; got {vectors.dtype}")
    if vectors.ndim != 2 or vectors.shape[1] < 1:
        raise ValueError(f"{name} must have shape (M, C) with C >= 1; got {tuple(vectors.shape)}")


def load_prototypes(path: str | PathLike[str]) -> tuple[Tensor, Tensor | None]:
    """Vectors (M, C), on the CPU, and ids (M,) if the file has them.

    A .pt or .pth file holds the matrix or a dict, a .safetensors file a dict: its entry
    'prototype_vecs', 'prototypes' or 'features', or else its only matrix. The file of a
    ``PrototypeBank`` has the bank's ids.

    Raises:
        FileNotFoundError, IsADirectoryError: no such file, or a folder.
        ValueError: another suffix, nothing readable, or no such matrix in it.
    """
    return read_prototypes(require_file(path, "path"), "path")


def read_prototypes(path: Path, argument: str = "prototype") -> tuple[Tensor, Tensor | None]:
    """As ``load_prototypes``, from a file of any name: torch's unless it ends in .safetensors.

    Args:
        argument: what errors call the path.
    """
    content = read_file(path, argument)
    where = f"{argument}: {str(path)!r}"
    if isinstance(content, Tensor):
        return _matrix_in(content, where), None
    if not isinstance(content, Mapping):
        raise ValueError(f"{where} must hold a tensor or a dict of tensors")
    matrices = [k for k, v in content.items() if isinstance(v, Tensor) and v.ndim == 2]
    named = [key for key in _KEYS if key in matrices]
    if not named and len(matrices) != 1:
        raise ValueError(
            f"{where} must hold one matrix, or one called {', '.join(map(repr, _KEYS))}; "
            f"got the keys {sorted(map(str, content))[:10]}"
        )
    vectors = _matrix_in(content[(named or matrices)[0]], where)
    ids = content.get(_IDS_KEY, content.get("ids") if is_bank(path) else None)
    if ids is not None and (not isinstance(ids, Tensor) or ids.shape != (len(vectors),)):
        raise ValueError(f"{where} must have {len(vectors)} {_IDS_KEY}")
    if ids is not None and (ids.is_floating_point() or ids.is_complex()):
        raise ValueError(f"{where} must have integers as ids; got {ids.dtype}")
    return vectors, ids


def _matrix_in(vectors: Tensor, where: str) -> Tensor:
    """What a file holds is a value, so that even the wrong kind of tensor is a ValueError."""
    try:
        require_matrix(vectors, where)
    except TypeError as error:
        raise ValueError(str(error)) from error
    return vectors


def dump_prototypes(path: str | Path, vectors: Tensor, ids: Tensor) -> None:
    """Write vectors (M, C) to ``path``: .safetensors with the ids, .pt or .pth the bare matrix.

    The tensors go to the CPU, so that any machine can read them. The file appears whole or not at
    all, even when several processes write it; .safetensors has checksums, which reading compares.

    Raises:
        ValueError: another suffix.
    """
    path = Path(path)
    require_suffix(path, "path")
    write_prototypes(path, vectors, ids)


def write_prototypes(path: Path, vectors: Tensor, ids: Tensor) -> None:
    """As ``dump_prototypes``, under any name: torch's format unless it ends in .safetensors."""
    vectors = vectors.detach().cpu().contiguous()
    if path.suffix == ".safetensors":
        tensors = {_KEYS[0]: vectors, _IDS_KEY: ids.cpu()}
        tensor_file.write(
            path, {name: (x.dtype, tuple(x.shape), [x]) for name, x in tensors.items()}, {}
        )
        return
    with whole_file(path) as file:
        torch.save(vectors.clone(), file)  # a view would drag its whole storage along
