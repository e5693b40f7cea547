"""The parts of mmpretrain's retriever, from modules or config dicts; the dicts stay untouched."""

from collections.abc import Mapping
from typing import Any

from mmpretrain.registry import MODELS  # pyright: ignore[reportMissingImports]
from torch import nn

from ..model import encoders, heads

Config = Mapping[str, Any]


def build_encoder(spec: encoders.EncoderSpec) -> nn.Module:
    """Dicts and lists by mmpretrain's MODELS, anything else by ``flashmatch``'s build_encoder."""
    return MODELS.build(spec) if isinstance(spec, (Mapping, list)) else encoders.build_encoder(spec)


def build_head(head: nn.Module | Config | None) -> nn.Module | None:
    return heads.build_head(MODELS.build(head) if isinstance(head, Mapping) else head)


def preprocessor_config(
    config: nn.Module | Config | None, train_cfg: Config | None
) -> nn.Module | dict[str, Any]:
    """What mmengine's BaseModel builds: a module, or a config with the augments of ``train_cfg``.

    Raises:
        ValueError: augments together with a module, which must bring its own.
    """
    augments = train_cfg if train_cfg is not None and "augments" in train_cfg else None
    if not isinstance(config, nn.Module):
        options = {"type": "mmpretrain.ClsDataPreprocessor", **(config or {})}
        return options if augments is None else {**options, "batch_augments": augments}
    if augments is not None:
        raise ValueError(
            "train_cfg['augments'] needs data_preprocessor to be a dict or None; "
            f"got the module {type(config).__name__}"
        )
    return config


def initialisation_config(pretrained: str | None, init_cfg: Any) -> Any:
    """mmengine's ``init_cfg``, for which ``pretrained`` is short.

    Raises:
        ValueError: both are given.
    """
    if pretrained is None:
        return init_cfg
    if init_cfg is not None:
        raise ValueError("pretrained and init_cfg must not both be given: each names a checkpoint")
    return {"type": "Pretrained", "checkpoint": pretrained}
