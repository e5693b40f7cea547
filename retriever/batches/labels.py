"""The targets of a batch, from samples or labels."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def labels_of(data_samples: object) -> Tensor:
    """The targets of a batch: class indices (N,) or, where any were softened, scores (N, classes).

    ``data_samples`` is such a tensor or array already, or a sequence of labels, or of samples that
    all have ``gt_score`` or all have one ``gt_label``.

    Raises:
        ValueError: neither holds.
    """
    if isinstance(data_samples, (Tensor, np.ndarray)):
        return torch.as_tensor(data_samples)
    samples = list(data_samples) if isinstance(data_samples, Sequence) else []
    for name in ("gt_score", "gt_label"):
        if samples and all(hasattr(sample, name) for sample in samples):
            targets = torch.stack([torch.as_tensor(getattr(sample, name)) for sample in samples])
            return targets if name == "gt_score" else _one_label_each(targets)
    if samples and all(isinstance(sample, (int, np.integer)) for sample in samples):
        return torch.tensor(samples)
    if samples and all(isinstance(sample, Tensor) for sample in samples):
        return torch.stack(samples)
    raise ValueError(
        "data_samples must be a tensor of labels, or samples that all have gt_label or gt_score; "
        f"got {type(data_samples).__name__}{f' of {type(samples[0]).__name__}' if samples else ''}"
    )


def _one_label_each(labels: Tensor) -> Tensor:
    if labels.ndim > 1 and labels.shape[1] != 1:
        raise ValueError(f"gt_label must hold one label per sample; got {labels.shape[1]}")
    return labels.reshape(len(labels))
