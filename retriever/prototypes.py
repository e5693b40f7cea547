"""Prototypes: what may be given as one, and the (M, C) matrix it stands for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..kernels import _store
from ..kernels._whole_file import whole_file
from .loaders import Encode, build_loader, encode_loader, require_loader_config
from .untrusted import is_plain
from .weights import is_bank, read_file, require_file, require_suffix

PrototypeSource = DataLoader | Mapping[str, Any] | str | Path | Tensor | np.ndarray

_KEYS = ("prototype_vecs", "prototypes", "features")
_IDS_KEY = "prototype_ids"


def require_prototype(prototype: object) -> Any:
    """``prototype`` if it can become prototypes, arrays as tensors and str as Path.

    Nothing is read or encoded; a Parameter is detached, so that nobody trains it by accident.

    Raises:
        TypeError: not one of the kinds.
        ValueError: wrong shape, dtype or suffix, or an incomplete config dict.
        FileNotFoundError: the path does not exist.
    """
    if isinstance(prototype, np.ndarray):
        prototype = _from_numpy(prototype)
    if isinstance(prototype, Tensor):
        require_matrix(prototype)
        return prototype.detach()
    if isinstance(prototype, (str, Path)):
        return require_file(prototype, "prototype")
    if isinstance(prototype, Mapping):
        require_loader_config(prototype, "prototype")
        return prototype
    if isinstance(prototype, DataLoader):
        return prototype
    raise TypeError(
        "prototype must be a tensor or array (M, C), a path, a DataLoader or a config dict of one; "
        f"got {type(prototype).__name__}"
    )


def _from_numpy(array: np.ndarray) -> Tensor:
    if array.dtype.kind not in "fiu":
        raise ValueError(f"prototype must hold real numbers; got dtype {array.dtype}")
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def require_matrix(vectors: Tensor) -> None:
    """Real numbers of shape (M, C) with C >= 1."""
    if vectors.ndim != 2 or vectors.shape[1] < 1:
        raise ValueError(
            f"prototype must have shape (M, C) with C >= 1; got {tuple(vectors.shape)}"
        )
    if not is_plain(vectors) or vectors.is_complex() or vectors.dtype == torch.bool:
        raise ValueError(
            f"prototype must be a dense tensor of real numbers; got {vectors.dtype}, "
            f"{vectors.layout}"
        )


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
        vectors, ids = load_prototypes(prototype)
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


def load_prototypes(path: str | Path) -> tuple[Tensor, Tensor | None]:
    """Vectors (M, C), on the CPU, and ids (M,) if the file has them.

    A .pt or .pth file holds the matrix or a dict, a .safetensors file a dict: its entry
    'prototype_vecs', 'prototypes' or 'features', or else its only matrix. The file of a
    ``PrototypeBank`` has the bank's ids.

    Raises:
        FileNotFoundError, ValueError: no such file, nothing readable, or no such matrix in it.
    """
    return read_prototypes(require_file(path, "prototype"))


def read_prototypes(path: Path) -> tuple[Tensor, Tensor | None]:
    """As ``load_prototypes``, from a file of any name: torch's unless it ends in .safetensors."""
    content = read_file(path, "prototype")
    if isinstance(content, Tensor):
        require_matrix(content)
        return content, None
    if not isinstance(content, Mapping):
        raise ValueError(f"prototype: {str(path)!r} must hold a tensor or a dict of tensors")
    matrices = [k for k, v in content.items() if isinstance(v, Tensor) and v.ndim == 2]
    named = [key for key in _KEYS if key in matrices]
    if not named and len(matrices) != 1:
        raise ValueError(
            f"prototype: {str(path)!r} must hold one matrix, or one called "
            f"{', '.join(map(repr, _KEYS))}; got the keys {sorted(map(str, content))[:10]}"
        )
    vectors = content[(named or matrices)[0]]
    ids = content.get(_IDS_KEY, content.get("ids") if is_bank(path) else None)
    if ids is not None and (not isinstance(ids, Tensor) or ids.shape != (len(vectors),)):
        raise ValueError(f"prototype: {str(path)!r} must have {len(vectors)} {_IDS_KEY}")
    if ids is not None and (ids.is_floating_point() or ids.is_complex()):
        raise ValueError(f"prototype: {str(path)!r} must have integers as ids; got {ids.dtype}")
    return vectors, ids


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
        _store.write(
            path, {name: (x.dtype, tuple(x.shape), [x]) for name, x in tensors.items()}, {}
        )
        return
    with whole_file(path) as file:
        torch.save(vectors.clone(), file)  # a view would drag its whole storage along
