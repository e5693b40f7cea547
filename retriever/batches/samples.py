"""DataSample: what is known about one image, and what was predicted for it."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


class DataSample:
    """One image's labels, scores and metadata, as plain attributes.

    ``DataSample(metainfo=dict(sample_idx=3), gt_label=...)`` keeps metadata and data apart:
    ``keys`` lists the data, ``metainfo`` the metadata; ``get``, ``in`` and attributes see both.

    Attributes:
        gt_label, pred_label: int64 (n,).
        gt_score, pred_score: floating (n,).
        sample_idx: position in the dataset, where one was given.
        num_classes: length of the scores, once ``set_gt_score`` or ``set_pred_score`` was used.
    """

    gt_label: Tensor
    gt_score: Tensor
    pred_label: Tensor
    pred_score: Tensor
    sample_idx: int
    num_classes: int

    def __init__(self, *, metainfo: Mapping[str, Any] | None = None, **fields: Any) -> None:
        self._metainfo_keys: frozenset[str] = frozenset()
        vars(self).update(fields)
        self.set_metainfo(metainfo or {})

    def set_metainfo(self, metainfo: Mapping[str, Any]) -> "DataSample":
        self._metainfo_keys |= metainfo.keys()
        vars(self).update(metainfo)
        return self

    @property
    def metainfo(self) -> dict[str, Any]:
        return {key: vars(self)[key] for key in sorted(self._metainfo_keys) if key in self}

    def set_gt_label(self, value: object) -> "DataSample":
        self.gt_label = _label("gt_label", value)
        return self

    def set_pred_label(self, value: object) -> "DataSample":
        self.pred_label = _label("pred_label", value)
        return self

    def set_gt_score(self, value: object) -> "DataSample":
        self.gt_score = self._score("gt_score", value)
        return self

    def set_pred_score(self, value: object) -> "DataSample":
        self.pred_score = self._score("pred_score", value)
        return self

    def _score(self, name: str, value: object) -> Tensor:
        score = _vector(name, value, torch.get_default_dtype())
        expected = self.get("num_classes", len(score))
        if len(score) != expected:
            raise ValueError(
                f"{name} must have num_classes = {expected} entries; got {len(score)} of them"
            )
        self.set_metainfo({"num_classes": expected})
        return score

    def get(self, key: str, default: Any = None) -> Any:
        return vars(self).get(key, default)

    def __contains__(self, key: str) -> bool:
        return key in vars(self)

    def keys(self) -> list[str]:
        hidden = self._metainfo_keys | {"_metainfo_keys"}
        return [key for key in vars(self) if key not in hidden]

    def items(self) -> Iterator[tuple[str, Any]]:
        return ((key, vars(self)[key]) for key in self.keys())

    def to_dict(self) -> dict[str, Any]:
        """Data and metadata in one dict; the tensors are shared."""
        return {**self.metainfo, **dict(self.items())}

    def to(self, *args: Any, **kwargs: Any) -> "DataSample":
        """A copy whose tensors went through ``Tensor.to(*args, **kwargs)``."""
        moved = copy.copy(self)
        for key, value in self.items():
            if isinstance(value, Tensor):
                setattr(moved, key, value.to(*args, **kwargs))
        return moved

    def cpu(self) -> "DataSample":
        return self.to("cpu")

    def __repr__(self) -> str:
        fields = ", ".join(f"{key}={value!r}" for key, value in self.to_dict().items())
        return f"DataSample({fields})"


def _label(name: str, value: object) -> Tensor:
    if isinstance(value, (int, np.integer)):
        value = [int(value)]
    elif isinstance(value, Tensor) and value.ndim == 0:
        value = value[None]
    return _vector(name, value, torch.int64)


def _vector(name: str, value: object, dtype: torch.dtype) -> Tensor:
    """A tensor as it is, anything else as ``dtype``; one dimension either way."""
    if not isinstance(value, (Tensor, np.ndarray, Sequence)) or isinstance(value, str):
        raise TypeError(
            f"{name} must be a tensor, an array or a sequence of numbers; got {value!r}"
        )
    vector = value if isinstance(value, Tensor) else torch.as_tensor(value).to(dtype)
    if vector.ndim != 1:
        raise ValueError(f"{name} must have one dimension; got shape {tuple(vector.shape)}")
    return vector


def as_samples(data_samples: Any, count: int) -> Any:
    """``data_samples`` itself if it holds samples; new ones for anything else, and for None.

    Integers become ``gt_label``, a vector of floats ``gt_score``, the entries of a dict metadata,
    and whatever else a label may be, a name say, the metadata ``label``. A dict of columns is taken
    for a dict for each image.

    Raises:
        ValueError: it has not ``count`` entries.
    """
    if data_samples is None:
        return [DataSample() for _ in range(count)]
    if isinstance(data_samples, Mapping):
        data_samples = _rows_of(data_samples, count)
    if len(data_samples) != count:
        raise ValueError(
            f"data_samples must have one sample per image, {count}; got {len(data_samples)}"
        )
    if all(_is_sample(sample) for sample in data_samples):
        return data_samples
    return [_as_sample(sample) for sample in data_samples]


def _rows_of(columns: Mapping[Any, Any], count: int) -> list[dict[Any, Any]]:
    for name, column in columns.items():
        if not hasattr(column, "__len__") or len(column) != count:
            raise ValueError(
                f"data_samples[{name!r}] must have one entry per image, {count}; got {column!r}"
            )
    return [{name: column[i] for name, column in columns.items()} for i in range(count)]


def _is_sample(value: Any) -> bool:
    """Whether predictions can be kept on it, as they can on DataSample and mmengine's."""
    return hasattr(value, "__dict__") and not isinstance(value, (Tensor, Mapping))


def _as_sample(value: Any) -> Any:
    if value is None or _is_sample(value):
        return DataSample() if value is None else value
    if isinstance(value, Mapping):
        return DataSample(metainfo=value)
    label = torch.as_tensor(value) if isinstance(value, np.ndarray) else value
    if isinstance(label, Tensor) and label.ndim == 1 and label.is_floating_point():
        return DataSample().set_gt_score(label)
    if isinstance(label, (int, np.integer)) or (isinstance(label, Tensor) and label.ndim < 2):
        return DataSample().set_gt_label(label)
    return DataSample(metainfo={"label": value})
