"""Checkpoints: which file holds the weights, and what of it the modules take."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..files.tensor_file import read_file, require_file
from ..files.untrusted import is_plain


def require_checkpoint(
    pretrained: str | Path | None, init_cfg: Mapping[str, Any] | None
) -> tuple[Path, str, str] | None:
    """The file to load, the argument that named it, and the prefix of its keys."""
    if pretrained is not None and init_cfg is not None:
        raise ValueError("pretrained and init_cfg must not both be given: each names a checkpoint")
    if pretrained is not None:
        return require_file(pretrained, "pretrained"), "pretrained", ""
    if init_cfg is None:
        return None
    if init_cfg.get("type") != "Pretrained" or "checkpoint" not in init_cfg:
        raise ValueError(
            "init_cfg must be dict(type='Pretrained', checkpoint=path, prefix=...); "
            f"got {dict(init_cfg)}"
        )
    argument = "init_cfg['checkpoint']"
    path = require_file(init_cfg["checkpoint"], argument)
    return path, argument, init_cfg.get("prefix") or ""


def load_weights(
    root: nn.Module, encoder_name: str, path: Path, argument: str, prefix: str = ""
) -> None:
    """Load a checkpoint of ``root``, or of its submodule ``encoder_name`` alone.

    Every weight of the encoder must be there. Others (a head, say) are loaded where ``root`` has
    them, and ignored where it has not: a classifier's checkpoint serves an encoder without one.

    Args:
        prefix: only keys below this prefix count, without it. A "module." before all keys, which
            DistributedDataParallel leaves, is dropped anyway.

    Raises:
        ValueError: no state dict, no key below ``prefix``, or weights missing or of another shape.
    """
    state = _without_ddp(_state_dict(read_file(path, argument), argument))
    if prefix:
        found, dotted = sorted(state), prefix.rstrip(".") + "."
        state = {k[len(dotted) :]: v for k, v in state.items() if k.startswith(dotted)}
        if not state:
            raise ValueError(f"{argument}: no key starts with {prefix!r}; found {_some(found)}")
    if not any(key.startswith(f"{encoder_name}.") for key in state):
        state = {f"{encoder_name}.{key}": value for key, value in state.items()}
    own = root.state_dict()
    wanted = [key for key in own if key.startswith(f"{encoder_name}.")]
    if not wanted:
        raise ValueError(f"{argument}: {encoder_name} has no weights to load")
    # Batch normalisation does without this counter, and old checkpoints lack it.
    missing = [k for k in wanted if k not in state and not k.endswith("num_batches_tracked")]
    if missing:
        raise ValueError(
            f"{argument}: {len(missing)} of the encoder's {len(wanted)} weights are not in "
            f"{str(path)!r}; missing {_some(missing)}; found {_some(sorted(state))}"
        )
    known = {key: value for key, value in state.items() if key in own}
    clashes = [k for k, v in known.items() if v.shape != own[k].shape]
    if clashes:
        raise ValueError(
            f"{argument}: {clashes[0]} must have shape {tuple(own[clashes[0]].shape)}; "
            f"{str(path)!r} has {tuple(known[clashes[0]].shape)} ({len(clashes)} such weights)"
        )
    root.load_state_dict(known, strict=False)


def _state_dict(content: Any, argument: str) -> dict[str, Tensor]:
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(isinstance(k, str) for k in content):
        raise ValueError(f"{argument} must hold a state dict; got {type(content).__name__}")
    return {key: value for key, value in content.items() if is_plain(value)}


def _without_ddp(state: dict[str, Tensor]) -> dict[str, Tensor]:
    if not all(key.startswith("module.") for key in state):
        return state
    return {key.removeprefix("module."): value for key, value in state.items()}


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
