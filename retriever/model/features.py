"""What an encoder gives, and what it must be."""

from typing import Any

from torch import Tensor

from ...kernels.contract.arguments import require_dense


def last_features(output: Any) -> Any:
    """What an encoder gave, or the last of several."""
    return output[-1] if isinstance(output, (tuple, list)) else output


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
