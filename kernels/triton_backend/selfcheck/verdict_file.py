"""The variants that passed on a card, in the user's cache folder: later processes believe them.

A file counts if nobody but the user can have written it, if it is whole, and if it is of this card
and driver, this torch and Triton, and these very kernels. What failed is never kept: the next
process looks again.
"""

import hashlib
import json
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch

from ...files.cache_folder import cache_folder, slug
from ...files.whole_file import whole_file
from .. import chips

FORMAT = "flashmatch.selfcheck 1"
KERNELS = Path(__file__).parents[2]
ROOMS = "codes", "contract", "proofs", "triton_backend"
"""Whose sources decide what is launched."""


def path_for(device: torch.device) -> Path:
    """selfcheck-<device>-<beginning of its UUID>.json in the cache folder."""
    card = chips.identity(device)
    return cache_folder() / f"selfcheck-{slug(card['device'] + ' ' + card['uuid'][:8])}.json"


def read(device: torch.device) -> set[str]:
    """What passed; nothing where the file does not count."""
    with suppress(OSError, ValueError, TypeError, LookupError, RecursionError):
        found = json.loads(_own_bytes(path_for(device)))
        if found == _content(device, found["passed"]):
            return set(found["passed"])
    return set()


def add(device: torch.device, variants: Iterable[str]) -> None:
    """Keep these, too. Where that cannot be, the next process checks again."""
    path, passed = path_for(device), read(device) | set(variants)
    with suppress(OSError, ValueError):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not _is_own(path.stat()):
            path.unlink()
        with whole_file(path) as file:
            os.chmod(file.fileno(), stat.S_IRUSR | stat.S_IWUSR)
            file.write(json.dumps(_content(device, passed), indent=1).encode())


def _own_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        if not _is_own(os.fstat(file.fileno())):
            raise PermissionError(f"others can write {path}")
        return file.read()


def _is_own(status: os.stat_result) -> bool:
    """Whether it is the user's, and nobody else can write to it; unknown but on POSIX."""
    if os.name != "posix":
        return True
    mine = status.st_uid == os.getuid() and stat.S_ISREG(status.st_mode)
    return mine and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _content(device: torch.device, passed: Iterable[str]) -> dict[str, object]:
    content: dict[str, object] = {"format": FORMAT, "origin": origin(device)}
    content["passed"] = sorted(passed)
    return content | {"sum": hashlib.sha256(json.dumps(content).encode()).hexdigest()}


def origin(device: torch.device) -> dict[str, str]:
    """What a verdict depends on."""
    import triton

    versions = {"torch": torch.__version__, "triton": triton.__version__}
    return chips.identity(device) | versions | {"kernels": _kernels()}


@cache
def _kernels() -> str:
    sources = sorted(path for room in ROOMS for path in (KERNELS / room).rglob("*.py"))
    digest = hashlib.sha256()
    for path in sources:
        digest.update(f"{path.relative_to(KERNELS)}\0".encode() + path.read_bytes())
    return digest.hexdigest()
