"""What mmpretrain's retriever takes for prototypes, and the (M, C) matrix it stands for."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.registry import DefaultScope  # pyright: ignore[reportMissingImports]
from mmengine.runner import Runner  # pyright: ignore[reportMissingImports]
from torch import Tensor
from torch.utils.data import DataLoader

from .. import prototypes
from ..files.prototype_file import read_prototypes, require_matrix
from ..loading.encode import Encode, encode_loader
from ..processes import from_first_process
from ..prototypes import require_finite


class PrototypeTypeError(TypeError, AssertionError):
    """A prototype of a kind that cannot be one; mmpretrain raises AssertionError for it."""


def require_prototype(prototype: object) -> Any:
    """``prototype`` as it is, but arrays and Parameters as plain tensors. Nothing is read.

    Raises:
        PrototypeTypeError: not one of the kinds.
        TypeError: a tensor that is not dense.
        ValueError: a tensor of another shape or dtype, a config dict without a dataset.
    """
    if isinstance(prototype, (Tensor, np.ndarray)):
        return prototypes.require_prototype(prototype)
    if isinstance(prototype, Mapping) and "dataset" not in prototype:
        raise ValueError(
            f"prototype must have the key 'dataset'; got the keys {sorted(map(str, prototype))}"
        )
    if isinstance(prototype, (str, PathLike, Mapping, DataLoader)):
        return prototype
    raise prototypes.refusal(PrototypeTypeError, prototype)


def obtain_prototypes(
    prototype: Any, encode: Encode, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Vectors (M, C) on ``device``, in their own dtype if floating, and on the CPU their ids (M,).

    A tensor that fits already is not copied.

    Args:
        encode: batch dict(inputs=, data_samples=) -> features (n, C); for loaders.

    Raises:
        FileNotFoundError, ValueError: see ``ImageToImageRetriever.prepare_prototype``.
    """
    ids: Tensor | None = None
    if isinstance(prototype, (Mapping, DataLoader)):
        vectors, ids = encode_loader(_loader(prototype), encode, progress=True)
    elif isinstance(prototype, (str, PathLike)):
        vectors, ids = from_first_process(lambda: read_prototypes(Path(prototype)))
    else:
        vectors = prototype
    require_matrix(vectors)
    dtype = vectors.dtype if vectors.is_floating_point() else torch.get_default_dtype()
    vectors = vectors.detach().to(device, dtype)
    require_finite(vectors)
    return vectors, torch.arange(len(vectors)) if ids is None else ids.cpu()


def _loader(prototype: Any) -> DataLoader:
    if DefaultScope.get_current_instance() is not None:
        return Runner.build_dataloader(prototype)
    # Outside a Runner nobody has said whose names the config's are.
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        return Runner.build_dataloader(prototype)
