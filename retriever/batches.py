"""Batches as loaders give them, and images as callers do."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor


def as_batch(data: Any) -> dict[str, Any]:
    """dict(inputs=, data_samples=) from such a dict, from (inputs, labels, ...), or bare inputs.

    Raises:
        ValueError: a dict without ``inputs``, or an empty sequence.
    """
    if isinstance(data, Mapping):
        if "inputs" not in data:
            raise ValueError(f"a batch must have the key 'inputs'; got the keys {sorted(data)}")
        return {"inputs": data["inputs"], "data_samples": data.get("data_samples")}
    if isinstance(data, (tuple, list)):
        if not data:
            raise ValueError("a batch must be (inputs, labels, ...); got an empty sequence")
        return {"inputs": data[0], "data_samples": data[1] if len(data) > 1 else None}
    return {"inputs": data, "data_samples": None}


def as_images(inputs: Any) -> Tensor | list[Any]:
    """A stacked tensor as it is; anything else as a list of single images."""
    if isinstance(inputs, Tensor):
        return inputs
    if isinstance(inputs, (list, tuple)) or (isinstance(inputs, np.ndarray) and inputs.ndim == 4):
        return list(inputs)
    return [inputs]
