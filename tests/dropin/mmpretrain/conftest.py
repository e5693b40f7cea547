"""The original retriever and ours, from the same configs, with the same weights; real images.

Runs where mmpretrain is installed, or its fork: `make test-mmpretrain`, `make test-onedl`.
"""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from mmpretrain.models import ImageToImageRetriever as Original
from mmpretrain.registry import MODELS
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor

import flashmatch.retriever.mmpretrain as ours

CHANNELS = 64
ATOL = 2e-7  # of a cosine in fp32
PIPELINE = [{"type": "LoadImageFromFile"}, {"type": "Resize", "scale": 32}, {"type": "PackInputs"}]


def pytest_configure(config: pytest.Config) -> None:
    """Thousands of them: mmpretrain 1.2.0 calls np.in1d for each query."""
    config.addinivalue_line("filterwarnings", "ignore::DeprecationWarning:mmpretrain")


class Pair(NamedTuple):
    original: Original
    ours: ours.ImageToImageRetriever


def model_config(**overrides: Any) -> dict[str, Any]:
    """A retriever as mmpretrain's configs have it, small enough to run in milliseconds."""
    return {
        "image_encoder": [
            {"type": "ResNet", "depth": 18, "base_channels": 8, "out_indices": (3,)},
            {"type": "GlobalAveragePooling"},
        ],
        "head": {
            "type": "ArcFaceClsHead",
            "num_classes": 10,
            "in_channels": CHANNELS,
            "loss": {"type": "CrossEntropyLoss", "loss_weight": 1.0},
        },
        "data_preprocessor": {
            "num_classes": 10,
            "mean": [123.675, 116.28, 103.53],
            "std": [58.395, 57.12, 57.375],
            "to_rgb": True,
        },
        **overrides,
    }


def build_pair(**overrides: Any) -> Pair:
    """Both classes from the same config; ours takes over the state dict, key by key."""
    torch.manual_seed(0)
    config = model_config(**overrides)
    # The original writes into its data_preprocessor.
    original = MODELS.build({"type": "ImageToImageRetriever", **_private(config)})
    mine = MODELS.build({"type": "flashmatch.ImageToImageRetriever", **config})
    mine.load_state_dict(original.state_dict(), strict=True)
    return Pair(original.eval(), mine.eval())


def assert_same_samples(mine: Any, theirs: Any, atol: float = ATOL) -> None:
    """The same scores to ``atol``; the same labels but where the original's scores tie to that."""
    assert len(mine) == len(theirs)
    for own, other in zip(mine, theirs, strict=True):
        assert own.num_classes == other.num_classes
        assert own.pred_score.dtype == other.pred_score.dtype
        assert own.pred_label.dtype == other.pred_label.dtype == torch.int64
        torch.testing.assert_close(own.pred_score, other.pred_score, rtol=0, atol=atol)
        assert own.pred_label.shape == other.pred_label.shape
        assert len(own.pred_label.unique()) == len(own.pred_label)
        ranked = other.pred_score[own.pred_label]
        torch.testing.assert_close(
            ranked, other.pred_score[other.pred_label], rtol=0, atol=2 * atol
        )


def error_of_the_original(pair: Pair, inputs: Tensor) -> float:
    """How far its scores are from fp64's: 3e-7 where all cosines are near 1, as of raw encoders."""
    with torch.no_grad():
        features = pair.original.extract_feat(inputs)[-1]
        score = pair.original.matching(features)["score"]
        exact = pair.original.similarity_fn(
            features.double(), pair.original.prototype_vecs.double()
        )
    return float((score - exact).abs().max())


@pytest.fixture(name="error_of_the_original")
def _error_of_the_original() -> Callable[[Pair, Tensor], float]:
    return error_of_the_original


@pytest.fixture(name="build_pair")
def _build_pair() -> Callable[..., Pair]:
    return build_pair


@pytest.fixture(name="assert_same_samples")
def _assert_same_samples() -> Callable[..., None]:
    return assert_same_samples


@pytest.fixture(name="model_config")
def _model_config() -> Callable[..., dict[str, Any]]:
    return model_config


@pytest.fixture(autouse=True)
def _no_scope() -> Iterator[None]:
    """A Runner leaves its default scope behind."""
    yield
    DefaultScope._instance_dict.clear()


@pytest.fixture(scope="session")
def digits() -> Tensor:
    """(60, 3, 32, 32) uint8: scikit-learn's handwritten digits, 0 to 9 six times, enlarged."""
    images = load_digits().images[:60]
    enlarged = np.repeat(np.repeat(images, 4, axis=1), 4, axis=2) * (255 / 16)
    return torch.from_numpy(enlarged.astype(np.uint8))[:, None].repeat(1, 3, 1, 1)


@pytest.fixture(scope="session")
def folder(digits: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 40 digits as images, in the order of their names."""
    root = tmp_path_factory.mktemp("gallery")
    for i, digit in enumerate(digits[:40]):
        Image.fromarray(digit.permute(1, 2, 0).numpy()).save(root / f"{i:03}.png")
    return root


@pytest.fixture
def queries(digits: Tensor) -> Tensor:
    """(20, 3, 32, 32) float, as preprocessed: the digits that are not in the folder."""
    return (digits[40:].float() - 116) / 57


@pytest.fixture
def gallery_config(folder: Path) -> dict[str, Any]:
    """A dataloader's config as in mmpretrain's configs."""
    return {
        "batch_size": 16,
        "num_workers": 0,
        "dataset": {
            "type": "CustomDataset",
            "data_root": str(folder),
            "with_label": False,
            "pipeline": PIPELINE,
        },
        "sampler": {"type": "DefaultSampler", "shuffle": False},
    }


def _private(config: dict[str, Any]) -> dict[str, Any]:
    """A copy as far as dicts go: loaders and modules are shared."""
    if not isinstance(config, dict):
        return copy.copy(config) if isinstance(config, list) else config
    return {key: _private(value) for key, value in config.items()}
