"""What the retriever refuses about its options and its features: argument, expectation, value."""

import torch
from torch import Tensor

from ...kernels._checks import require_dense, require_int


def require_features(features: object, channels: int | None = None) -> None:
    if isinstance(features, Tensor):
        require_dense("features", features)
    if not isinstance(features, Tensor) or features.ndim != 2:
        got = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise ValueError(f"features must be a tensor (N, C), pooled and flattened; got {got}")
    if channels is not None and features.shape[1] != channels:
        raise ValueError(
            f"features must have {channels} channels, as the prototypes; got {features.shape[1]}"
        )


def require_row_each(features: Tensor, inputs: int, where: str = "") -> None:
    if len(features) != inputs:
        raise ValueError(
            f"{where}image_encoder must give one row for each input; got {len(features)} for "
            f"{inputs} inputs"
        )


def require_topk(topk: object) -> int:
    k = require_int("topk", topk)
    if k != -1 and k < 1:
        raise ValueError(f"topk must be at least 1, or -1 for all; got {k}")
    return k


def require_options(autocast: object, similarity_chunk_rows: object) -> None:
    if autocast not in (None, torch.float16, torch.bfloat16):
        raise ValueError(
            f"autocast must be torch.float16, torch.bfloat16 or None; got {autocast!r}"
        )
    if similarity_chunk_rows is not None:
        require_int("similarity_chunk_rows", similarity_chunk_rows, least=1)
