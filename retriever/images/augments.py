"""Mixup and CutMix on whole batches, one drawn per batch."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

Augment = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

_TRANSFORMS = {"Mixup": "MixUp", "MixUp": "MixUp", "CutMix": "CutMix"}


class RandomBatchAugment:
    """One of ``augments``, drawn at random, on images (N, C, H, W) and scores (N, classes).

    Args:
        augments: one or several of ``dict(type="Mixup", alpha=...)``, ``dict(type="CutMix",
            alpha=...)`` and callables ``(images, scores) -> (images, scores)``.
        probs: the probability of each; what is left to 1 leaves the batch alone. None: equal.

    Raises:
        ValueError: an unknown type, or ``probs`` that do not fit.
        ImportError: torchvision, which does the mixing, is not installed.
    """

    def __init__(self, augments: Any, probs: float | Sequence[float] | None = None) -> None:
        listed = list(augments) if isinstance(augments, (list, tuple)) else [augments]
        if not listed:
            raise ValueError("train_cfg['augments'] must not be empty")
        self.augments: list[Augment] = [_build(augment) for augment in listed]
        if probs is None:
            probs = [1 / len(listed)] * len(listed)
        self.probs = [float(p) for p in (probs if isinstance(probs, Sequence) else [probs])]
        if len(self.probs) != len(listed) or min(self.probs) < 0 or sum(self.probs) > 1 + 1e-6:
            raise ValueError(
                f"train_cfg['probs'] must give each of {len(listed)} augments a probability, "
                f"at most 1 in all; got {probs}"
            )

    def __call__(self, inputs: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        draw = float(torch.rand(()))
        for augment, prob in zip(self.augments, self.probs, strict=True):
            if draw < prob:
                return augment(inputs, scores)
            draw -= prob
        return inputs, scores


def _build(augment: Any) -> Augment:
    if not isinstance(augment, Mapping):
        if not callable(augment):
            raise TypeError(
                f"train_cfg['augments'] must hold config dicts or callables; got {augment!r}"
            )
        return cast(Augment, augment)
    options = dict(augment)
    name = options.pop("type", None)
    if name not in _TRANSFORMS:
        raise ValueError(
            f"train_cfg['augments'] must have a type among {', '.join(_TRANSFORMS)}; got {name!r}"
        )
    from torchvision.transforms import v2

    return getattr(v2, _TRANSFORMS[name])(**options)
