"""Kernels in the place of those that searches launch: with a line changed, or unlaunchable."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

BACKEND = "flashmatch.kernels.triton_backend"


class Unlaunchable:
    """A kernel whose launch fails."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __getitem__(self, grid: object) -> None:
        raise self.error


def alter(patch: pytest.MonkeyPatch, folder: Path, name: str, old: str, new: str) -> None:
    """Put a changed copy of device/``name``.py in the place of all that is imported from it."""
    module = sys.modules[f"{BACKEND}.device.{name}"]
    source = Path(module.__file__ or "").read_text(encoding="utf-8")
    assert old in source, f"device/{name}.py has no {old!r} any more"
    path = folder / f"{name}.py"
    path.write_text(source.replace(old, new, 1), encoding="utf-8")
    copy = _imported(path, f"{BACKEND}.device.altered_{name}")
    functions = [n for n, v in vars(copy).items() if _defined_in(v) == copy.__name__]
    originals = {function: getattr(module, function) for function in functions}
    for user in [m for n, m in sys.modules.items() if n.startswith(BACKEND)]:
        for function, original in originals.items():
            if getattr(user, function, None) is original:
                patch.setattr(user, function, getattr(copy, function))


def _defined_in(value: object) -> str:
    """The module of what @triton.jit made a kernel of."""
    return getattr(getattr(value, "fn", None), "__module__", "")


def _imported(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
