"""Prototypes: what may be given as one, and the (M, C) matrix it stands for."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ..kernels.contract.arguments import require_dense
from ..kernels.files import tensor_file
from ..kernels.files.whole_file import whole_file
from .loaders import Encode, build_loader, encode_loader, require_loader_config
from .weights import is_bank, read_file, require_file, require_suffix

PrototypeSource = DataLoader | Mapping[str, Any] | str | PathLike[str] | Tensor | np.ndarray

_KEYS = ("prototype_vecs", "prototypes", "features")
_IDS_KEY = "prototype_ids"


def require_prototype(prototype: object) -> Any:
    """``prototype`` if it can become prototypes, arrays as tensors and str as Path.

    Nothing is read or encoded; a Parameter is detached, so that nobody trains it by accident.

    Raises:
        TypeError: not one of the kinds, or a tensor that is not dense.
        ValueError: wrong shape, dtype or suffix, or an incomplete config dict.
        FileNotFoundError, IsADirectoryError: the path does not exist, or is a folder.
    """
    if isinstance(prototype, np.ndarray):
        prototype = _from_numpy(prototype)
    if isinstance(prototype, Tensor):
        require_matrix(prototype)
        return prototype.detach()
    if isinstance(prototype, (str, PathLike)):
        return require_file(prototype, "prototype")
    if isinstance(prototype, Mapping):
        require_loader_config(prototype, "prototype")
        return prototype
    if isinstance(prototype, DataLoader):
        return prototype
    raise refusal(TypeError, prototype)


def refusal(kind: type[TypeError], prototype: object) -> TypeError:
    """The error for what can never become prototypes."""
    hint = ""
    if isinstance(prototype, Dataset):
        hint = ": torch.utils.data.DataLoader(it), or dict(dataset=it), is taken"
    elif isinstance(prototype, (list, tuple)):
        hint = ": torch.tensor(it), or torch.stack(it) of vectors, is taken"
    return kind(
        "prototype must be a tensor or array (M, C), a path, a DataLoader or a config dict of one; "
        f"got {type(prototype).__name__}{hint}"
    )


def _from_numpy(array: np.ndarray) -> Tensor:
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError("prototype must be an array without a mask; got a MaskedArray")
    if array.dtype.kind not in "fiu" or array.dtype.itemsize > 8:
        raise ValueError(f"prototype must hold real numbers; got dtype {array.dtype}")
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def require_matrix(vectors: Tensor, name: str = "prototype") -> None:
    """Real numbers of shape (M, C) with C >= 1, M >= 0, in a dense tensor."""
    require_dense(name, vectors)
    if vectors.is_quantized or vectors.is_complex() or vectors.dtype == torch.bool:
        raise ValueError(f"{name} must hold real numbers; got {vectors.dtype}")
    if vectors.ndim != 2 or vectors.shape[1] < 1:
        raise ValueError(f"{name} must have shape (M, C) with C >= 1; got {tuple(vectors.shape)}")


def obtain_prototypes(
    prototype: Any, encode: Encode, like: Tensor, progress: bool
) -> tuple[Tensor, Tensor]:
    """Vectors (M, C) in the dtype and on the device of ``like``, and their ids (M,) int64.

    A tensor that fits already is not copied. ids are the samples' ``sample_idx`` (see
    ``loaders``), what a file says, or row numbers.

    Args:
        encode: batch dict(inputs=, data_samples=) -> features (n, C); for loaders.

    Raises:
        ValueError: NaN or infinity anywhere, and whatever the kind of prototype can do wrong.
    """
    ids: Tensor | None = None
    if isinstance(prototype, Mapping):
        prototype = build_loader(prototype, "prototype")
    if isinstance(prototype, DataLoader):
        vectors, ids = encode_loader(prototype, encode, progress)
    elif isinstance(prototype, Path):
        vectors, ids = read_prototypes(prototype)
    else:
        vectors = prototype
    require_matrix(vectors)
    if isinstance(vectors, nn.Parameter) or vectors.requires_grad:
        vectors = vectors.detach()
    vectors = vectors.to(like.device, like.dtype)
    require_finite(vectors)
    if ids is None:
        ids = torch.arange(len(vectors))
    return vectors, ids.to(like.device)


def require_finite(vectors: Tensor) -> None:
    bad = ~vectors.isfinite().all(dim=1)
    if bad.any():
        rows = bad.nonzero()[:5, 0].tolist()
        raise ValueError(
            f"prototype must be finite in {vectors.dtype}; got NaN or infinity in {int(bad.sum())} "
            f"rows, first {rows}"
        )


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
