"""What the retriever refuses about its options and its features: argument, expectation, value."""

from operator import index

import torch
from torch import Tensor


def require_features(features: object, channels: int | None = None) -> None:
    if not isinstance(features, Tensor) or features.ndim != 2:
        got = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise ValueError(f"features must be a tensor (N, C), pooled and flattened; got {got}")
    if channels is not None and features.shape[1] != channels:
        raise ValueError(
            f"features must have {channels} channels, as the prototypes; got {features.shape[1]}"
        )


def require_topk(topk: object) -> int:
    if isinstance(topk, bool) or not hasattr(topk, "__index__"):
        raise TypeError(f"topk must be an int; got {type(topk).__name__}")
    k = index(topk)  # pyright: ignore[reportArgumentType]
    if k != -1 and k < 1:
        raise ValueError(f"topk must be at least 1, or -1 for all; got {k}")
    return k


def require_options(autocast: object, similarity_chunk_rows: object) -> None:
    if autocast not in (None, torch.float16, torch.bfloat16):
        raise ValueError(
            f"autocast must be torch.float16, torch.bfloat16 or None; got {autocast!r}"
        )
    rows = similarity_chunk_rows
    if rows is not None and (isinstance(rows, bool) or not isinstance(rows, int) or rows < 1):
        raise ValueError(f"similarity_chunk_rows must be a positive int or None; got {rows!r}")
