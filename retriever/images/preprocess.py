"""From a batch as the dataset gives it to the tensor that the encoder takes."""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor, nn
from torch.nn import functional as F

from ..batches.forms import as_batch, as_images
from ..batches.labels import labels_of
from ..configs import build_from_config
from .augments import RandomBatchAugment
from .pixels import read_each

_OWN_NAMES = (None, "ClsDataPreprocessor", "mmpretrain.ClsDataPreprocessor")


class ImagePreprocessor(nn.Module):
    """Flips channels, normalises, pads, stacks, and softens labels where training asks for it.

    Everything happens in fp32 on the module's device; the result takes the module's dtype.

    Args:
        mean, std: per channel (or one for all), in the images' 0..255 scale. None: leave them.
        pad_size_divisor: height and width are padded, right and bottom, to a multiple of this.
        pad_value: what the padding holds; it comes after normalisation.
        to_rgb: reverse the channels of three-channel tensors and arrays; PIL images are RGB.
        to_onehot: labels become one-hot scores even without augments. Needs the number of classes.
        num_classes: length of those scores; None: the samples' own ``num_classes``.
        batch_augments: ``dict(augments=..., probs=...)`` or a callable on images and scores,
            applied when training.
    """

    _anchor: Tensor  # empty; it has the module's device and dtype

    def __init__(
        self,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        pad_size_divisor: int = 1,
        pad_value: float = 0,
        to_rgb: bool = False,
        to_onehot: bool = False,
        num_classes: int | None = None,
        batch_augments: Any = None,
    ) -> None:
        super().__init__()
        _require_statistics(mean, std)
        if pad_size_divisor < 1:
            raise ValueError(f"pad_size_divisor must be at least 1; got {pad_size_divisor}")
        self.mean = None if mean is None else tuple(map(float, mean))
        self.std = None if std is None else tuple(map(float, std))
        self.pad_size_divisor = pad_size_divisor
        self.pad_value = pad_value
        self.to_rgb = to_rgb
        self.to_onehot = to_onehot
        self.num_classes = num_classes
        if isinstance(batch_augments, Mapping):
            batch_augments = RandomBatchAugment(**batch_augments)
        self.batch_augments = batch_augments
        self.register_buffer("_anchor", torch.empty(0), persistent=False)

    def forward(self, data: Any, training: bool = False) -> dict[str, Any]:
        """``data`` as ``as_batch`` takes it -> dict(inputs=(N, C, H, W), data_samples=...).

        Inputs are one stacked tensor, or a sequence of images: tensors (C, H, W), arrays (H, W) or
        (H, W, C), PIL images, paths; ``pixels.read_pixels`` says what becomes of each. Unequal
        sizes are padded to the largest; greys among colours are colours of equal channels.

        Raises:
            TypeError, ValueError, FileNotFoundError: naming ``inputs[i]``: what is no image, or
                cannot be read.
        """
        batch = as_batch(data)
        inputs, samples = self._stack(batch["inputs"]), batch["data_samples"]
        augments = self.batch_augments if training else None
        if samples is not None and (self.to_onehot or augments is not None):
            scores = self._scores(samples).to(inputs.device)
            if augments is not None:
                inputs, scores = augments(inputs, scores)
            samples = _with_scores(samples, scores)
        return {"inputs": inputs.to(self._anchor.dtype), "data_samples": samples}

    def _stack(self, inputs: Any) -> Tensor:
        images = as_images(inputs)
        if isinstance(images, Tensor):
            return self._pad(self._normalise(images, flip=self.to_rgb))
        pixels = read_each(images, inputs)
        rows = [self._normalise(*self._channels_first(image)) for image in pixels]
        if not rows:
            raise ValueError("inputs must hold at least one image; got none")
        size = [max(row.shape[i] for row in rows) for i in (-2, -1)]
        return torch.stack(_of_equal_channels([self._pad(row, size) for row in rows]))

    def _channels_first(self, image: Tensor | np.ndarray | Image) -> tuple[Tensor, bool]:
        """An image as a tensor (C, H, W), and whether its channels must be reversed."""
        if isinstance(image, Tensor):
            return image, self.to_rgb
        array = np.array(image, order="C", copy=True)
        channels_first = torch.from_numpy(array.reshape(*array.shape[:2], -1)).permute(2, 0, 1)
        return channels_first, self.to_rgb and isinstance(image, np.ndarray)

    def _normalise(self, images: Tensor, flip: bool) -> Tensor:
        images = images.to(self._anchor.device)  # before .float(): bytes travel at a quarter
        if flip and images.ndim >= 3 and images.shape[-3] == 3:
            images = images.flip(-3)
        images = images.float()
        if self.mean is None:
            return images
        if images.ndim < 3:
            raise ValueError(
                "inputs must be images (C, H, W) or (N, C, H, W) where there are a mean and std; "
                f"got shape {tuple(images.shape)}"
            )
        mean, std = (images.new_tensor(v)[:, None, None] for v in (self.mean, self.std))
        return (images - mean) / std

    def _pad(self, images: Tensor, size: Sequence[int] | None = None) -> Tensor:
        if images.ndim < 3:
            return images
        height, width = images.shape[-2:]
        divisor = self.pad_size_divisor
        target = [math.ceil(n / divisor) * divisor for n in size or (height, width)]
        if target == [height, width]:
            return images
        return F.pad(images, (0, target[1] - width, 0, target[0] - height), value=self.pad_value)

    def _scores(self, samples: Any) -> Tensor:
        labels = labels_of(samples)
        if labels.ndim == 2:
            return labels.float()
        classes = self.num_classes
        if classes is None and not isinstance(samples, Tensor):
            classes = getattr(samples[0], "num_classes", None)
        if classes is None:
            raise ValueError("data_preprocessor needs num_classes to turn labels into scores")
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            raise ValueError(
                f"labels must be between 0 and num_classes - 1 = {classes - 1}; "
                f"got {int(labels.min())} to {int(labels.max())}"
            )
        return F.one_hot(labels.long(), classes).float()


def _of_equal_channels(rows: list[Tensor]) -> list[Tensor]:
    """Greys as colours where there are colours among them."""
    counts = sorted({row.shape[-3] for row in rows if row.ndim == 3})
    if len(counts) == 2 and counts[0] == 1:
        return [row.expand(counts[1], -1, -1) if row.ndim == 3 else row for row in rows]
    if len(counts) > 1:
        raise ValueError(f"inputs must have the same number of channels; got {counts}")
    return rows


def _require_statistics(mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
    if (mean is None) != (std is None):
        raise ValueError(f"mean and std must be given together; got mean={mean}, std={std}")
    if mean is None or std is None:
        return
    if len(mean) != len(std) or len(mean) not in (1, 3):
        raise ValueError(f"mean and std must both have 1 or 3 entries; got {mean} and {std}")
    if not all(s > 0 for s in std):
        raise ValueError(f"std must be positive; got {std}")


def _with_scores(samples: Any, scores: Tensor) -> Any:
    """The same kind of samples with these targets; copies, since datasets may keep theirs."""
    if isinstance(samples, Tensor) or not hasattr(samples[0], "set_gt_score"):
        return scores
    copies = [copy.copy(sample) for sample in samples]
    for sample, score in zip(copies, scores, strict=True):
        sample.set_gt_score(score)
    return copies


def build_preprocessor(
    config: nn.Module | Mapping[str, Any] | None, train_cfg: Mapping[str, Any] | None
) -> nn.Module:
    """The retriever's ``data_preprocessor``, with the augments of ``train_cfg``.

    Raises:
        TypeError: ``config`` is neither a module, a dict nor None, or has keys nobody takes.
        ValueError: augments together with a module, which must bring its own.
    """
    augments = train_cfg if train_cfg and train_cfg.get("augments") else None
    if isinstance(config, nn.Module):
        if augments:
            raise ValueError(
                "train_cfg['augments'] needs data_preprocessor to be a dict or None; "
                f"got the module {type(config).__name__}"
            )
        return config
    if config is not None and not isinstance(config, Mapping):
        raise TypeError(
            f"data_preprocessor must be a module, a dict or None; got {type(config).__name__}"
        )
    options = dict(config or {})
    if augments:
        options["batch_augments"] = augments
    if options.get("type") in _OWN_NAMES:
        options["type"] = ImagePreprocessor
    try:
        return build_from_config(options, "data_preprocessor")
    except TypeError as error:
        raise TypeError(f"data_preprocessor: {error}") from error
