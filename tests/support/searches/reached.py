"""Lines of kernels/ that only a GPU reaches, and the tests in tests/device that name them."""

import ast
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).resolve().parents[3]
KERNELS = ROOT / "kernels"
_Test = TypeVar("_Test", bound=Callable)
_ABOUT_DEVICES = {"is_cuda", "is_pinned", "pin_memory", "non_blocking", "LAYOUT_CUDA", "hip"}
_TORCH_CUDA = "torch.cuda."


def reaches(path: str, line: str) -> Callable[[_Test], _Test]:
    """The test runs ``line`` of kernels/``path``, as it stands there without what surrounds it."""
    assert (KERNELS / path).suffix == ".py", line

    def noted(test: _Test) -> _Test:
        test.__dict__.setdefault("reached", []).append((path, line))
        return test

    return noted


def named_lines() -> set[tuple[str, str]]:
    """Path and line of every ``reaches`` in tests/device."""
    found = set()
    for file in (ROOT / "tests" / "device").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "reaches":
                path, line = map(ast.literal_eval, node.args)
                found.add((path, line))
    return found


def cuda_lines() -> set[tuple[str, str]]:
    """Path and line of all that asks which device there is, in kernels/ but triton_backend/."""
    found = set()
    for file in KERNELS.rglob("*.py"):
        path = file.relative_to(KERNELS).as_posix()
        if path.startswith("triton_backend/"):
            continue
        lines = file.read_text().splitlines()
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.stmt | ast.expr | ast.keyword) and _asks(node):
                found.add((path, lines[node.lineno - 1].strip()))
    return found


def line_numbers(path: str, line: str) -> set[int]:
    """Where kernels/``path`` has ``line`` in a function: others run when it is imported."""
    source = (KERNELS / path).read_text()
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    spans = [n for n in ast.walk(ast.parse(source)) if isinstance(n, functions)]
    return {
        number
        for number, text in enumerate(source.splitlines(), 1)
        if text.strip() == line and any(f.lineno < number <= (f.end_lineno or 0) for f in spans)
    }


def _asks(node: ast.AST) -> bool:
    if isinstance(node, ast.Constant):
        return node.value == "cuda" or (isinstance(node.value, str) and "cuda:" in node.value)
    if isinstance(node, ast.keyword):
        return node.arg in _ABOUT_DEVICES
    if isinstance(node, ast.Name):
        return node.id in _ABOUT_DEVICES
    if isinstance(node, ast.Attribute):
        whole = ast.unparse(node)
        return node.attr in _ABOUT_DEVICES or whole.startswith(_TORCH_CUDA)
    if isinstance(node, ast.Compare):
        text = ast.unparse(node)
        return "'cpu'" in text and "device" in text
    return False
