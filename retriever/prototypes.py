"""Prototypes: what may be given as one, and the (M, C) matrix it stands for."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from .files.prototype_file import read_prototypes, require_matrix
from .files.tensor_file import require_file
from .loading.build import build_loader, require_loader_config
from .loading.encode import Encode, encode_loader

PrototypeSource = DataLoader | Mapping[str, Any] | str | PathLike[str] | Tensor | np.ndarray


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


def obtain_prototypes(
    prototype: Any, encode: Encode, like: Tensor, progress: bool
) -> tuple[Tensor, Tensor]:
    """Vectors (M, C) in the dtype and on the device of ``like``, and their ids (M,) int64.

    A tensor that fits already is not copied. ids are the samples' ``sample_idx`` (see
    ``loading``), what a file says, or row numbers.

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
