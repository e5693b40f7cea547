"""Tensor files: what a path holds, read without executing anything it contains."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..kernels import _store
from ..kernels._naming import named
from .untrusted import is_plain, require_no_bomb, require_sizes

SUFFIXES = (".safetensors", ".pt", ".pth")


def require_file(path: str | os.PathLike[str], argument: str) -> Path:
    """``path`` as a Path to an existing tensor file.

    Raises:
        ValueError: a suffix that is not among ``SUFFIXES``.
        FileNotFoundError, IsADirectoryError: no such file, or a folder.
    """
    path = Path(path)
    require_existing(path, argument)
    require_suffix(path, argument)
    return path


def require_existing(path: Path, argument: str) -> None:
    if path.is_dir():
        raise IsADirectoryError(f"{argument} must be a file; got the folder {str(path)!r}")
    if not path.is_file():
        why = "is no regular file" if path.exists() else "does not exist"
        raise FileNotFoundError(
            f"{argument} must be an existing file; got {str(path)!r}, which {why}"
        )


def require_suffix(path: Path, argument: str) -> None:
    if path.suffix not in SUFFIXES:
        of_numpy = path.suffix in (".npy", ".npz")
        raise ValueError(
            f"{argument} must end in {', '.join(SUFFIXES)}; got {str(path)!r}"
            + of_numpy * ". What numpy.load reads from it can be given itself"
        )


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


def read_file(path: Path, argument: str) -> Any:
    """The tensors in ``path``, on the CPU: a dict of them, or whatever tensors-only .pt holds.

    Nothing that the file contains is executed, nor believed: what it would take to unpack it, or
    to lay out its tensors, is known before memory is taken.

    Raises:
        FileNotFoundError, IsADirectoryError, OSError: no such file, or it may not be read.
        ValueError: the file is damaged, or holds pickled objects besides tensors and containers.
    """
    require_existing(path, argument)
    if path.suffix == ".safetensors":
        return _read_safetensors(path, argument)
    with open(path, "rb") as file:
        try:
            require_no_bomb(file)
            content = torch.load(file, map_location="cpu", weights_only=True)
            require_sizes(content, os.fstat(file.fileno()).st_size)
            return content
        except MemoryError:
            raise
        except Exception as error:  # of whatever the bytes were taken for
            raise ValueError(
                f"{argument}: {str(path)!r} cannot be read as plain tensors ({_reason(error)}). "
                "Pickled objects are refused because loading them runs code; save tensors with "
                "torch.save or safetensors"
            ) from error


def is_bank(path: Path) -> bool:
    """Whether a ``PrototypeBank`` wrote this file."""
    return path.suffix == ".safetensors" and _store.is_bank(_store.open_mapped(path))


def _read_safetensors(path: Path, argument: str) -> dict[str, Tensor]:
    with named(path=argument):
        file = _store.open_mapped(path)
        if file.checksums:
            file.check()
        return file.tensors


def _reason(error: Exception) -> str:
    return (
        f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200] if str(error) else ''}"
    )


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
