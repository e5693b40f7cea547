"""The arrows between the rooms, as docs/architecture.md draws them, and the size of the rooms."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {"kernels": "flashmatch.kernels", "retriever": "flashmatch.retriever"}
FOLDERS |= {"adapters": "flashmatch.adapters", "bench": "bench"}
LAZY = " in functions"
ELSEWHERE = {"triton": "kernels.triton_backend", "mmengine": "retriever.mmpretrain"}
ELSEWHERE |= {"mmpretrain": "retriever.mmpretrain"}
"""What is imported in one room alone."""
FILES, LINES = 10, 300


class Import(NamedTuple):
    path: Path
    line: int
    room: str
    target: str  # a module of ours, less "flashmatch.", or a package
    in_function: bool

    def __str__(self) -> str:
        return f"{self.path}:{self.line} ({self.room}) imports {self.target}"


def arrows() -> dict[str, frozenset[str]]:
    """The rows of the table: which rooms a room may import, beside itself."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = page.partition("| who | may import |")[2].partition("\n\n")[0].splitlines()[2:]
    table = {}
    for row in rows:
        who, may_import = (cell.strip().replace("`", "") for cell in row.split("|")[1:3])
        allowed = frozenset(name.strip() for name in may_import.split(",")) - {"nothing"}
        for name in who.split(","):
            table[name.strip()] = allowed
    return table


ARROWS = arrows()


def sources(folder: str) -> list[Path]:
    return sorted(path for path in (ROOT / folder).rglob("*.py"))


def module_of(path: Path) -> str:
    """As in the table: ``kernels.contract.order`` of kernels/contract/order.py."""
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


def room_of(module: str) -> str:
    """The longest row of the table that names it, or what it lies in."""
    parts = module.split(".")
    names = [".".join(parts[:i]) for i in range(len(parts), 0, -1)]
    return next((name for name in names if name in ARROWS), parts[0])


def imports(path: Path) -> Iterator[Import]:
    tree, module = ast.parse(path.read_text(encoding="utf-8")), module_of(path)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    inside = {
        node
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.Lambda))
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Import, ast.ImportFrom)):
            continue
        for target in targets(node, package):
            yield Import(path, node.lineno, room_of(module), target, node in inside)


def targets(node: ast.Import | ast.ImportFrom, package: str) -> Iterator[str]:
    names = [alias.name for alias in node.names]
    if isinstance(node, ast.Import):
        yield from (name.removeprefix("flashmatch.") for name in names)
        return
    base = (node.module or "").removeprefix("flashmatch.")
    if node.level:
        base = ".".join([*package.split(".")[: len(package.split(".")) - node.level + 1], base])
    base = base.rstrip(".")
    if package.split(".")[0] == "bench" and (ROOT / "bench" / base.split(".")[0]).exists():
        base = f"bench.{base}"
    for name in names:
        if name in exports(base):
            yield base
            continue
        inner = f"{base}.{name}"
        is_module = (ROOT / inner.replace(".", "/")).is_dir() or path_of(inner).exists()
        yield inner if is_module else base


def exports(package: str) -> set[str]:
    """What a package's own __init__ says that it has: a function, though a module has its name."""
    path = ROOT / package.replace(".", "/") / "__init__.py"
    body = ast.parse(path.read_text(encoding="utf-8")).body if path.exists() else []
    listed = [node.value for node in body if isinstance(node, ast.Assign) and is_all(node)]
    return set(ast.literal_eval(listed[0])) if listed else set()


def is_all(node: ast.Assign) -> bool:
    return isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__"


def path_of(module: str) -> Path:
    return ROOT / f"{module.replace('.', '/')}.py"


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_import_goes_against_the_arrows(folder: str) -> None:
    wrong = [
        str(found)
        for path in sources(folder)
        for found in imports(path)
        if found.target.split(".")[0] in within(folder) and not is_allowed(found)
    ]
    assert not wrong


def within(folder: str) -> set[str]:
    """Benchmarks may import whatever they measure; their own rooms have arrows, too."""
    return {"bench"} if folder == "bench" else set(FOLDERS)


def is_allowed(found: Import) -> bool:
    target, allowed = room_of(found.target), ARROWS.get(found.room, frozenset())
    may = target == found.room or target in allowed
    return may or (found.in_function and target + LAZY in allowed)


def test_every_row_is_a_room_and_every_room_has_a_row() -> None:
    for name in ARROWS:
        assert (ROOT / name.replace(".", "/")).is_dir() or path_of(name).exists(), name
    named = {name.removesuffix(LAZY) for allowed in ARROWS.values() for name in allowed}
    assert named <= set(ARROWS)
    folders = {module_of(path) for path in sources("kernels") if path.name == "__init__.py"}
    assert folders <= set(ARROWS)


def test_the_arrows_have_no_circle() -> None:
    left = {who: {name for name in may if LAZY not in name} - {who} for who, may in ARROWS.items()}
    while left:
        free = {who for who, may in left.items() if not may & set(left)}
        assert free, f"a circle among {sorted(left)}"
        left = {who: may for who, may in left.items() if who not in free}


@pytest.mark.parametrize(("package", "room"), ELSEWHERE.items())
def test_a_package_is_imported_in_one_room_alone(package: str, room: str) -> None:
    where = {
        module_of(path)
        for folder in ("kernels", "retriever", "adapters")
        for path in sources(folder)
        for found in imports(path)
        if found.target.split(".")[0] == package
    }
    assert where
    assert all(name.startswith(room) for name in where)


def test_the_oracle_is_imported_by_tests_and_benchmarks_alone() -> None:
    importers = [
        found.path
        for folder in ("kernels", "retriever", "adapters")
        for path in sources(folder)
        for found in imports(path)
        if found.target == "kernels.contract.reference"
    ]
    assert not importers


def test_rooms_are_small() -> None:
    for path in sources("kernels"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= LINES, path
    for folder in {path.parent for path in sources("kernels")}:
        assert len(list(folder.glob("*.py"))) <= FILES, folder


def test_a_function_is_known_by_its_name() -> None:
    """Within a folder; methods are known by their class."""
    for folder in {path.parent for path in sources("kernels")}:
        seen: dict[str, Path] = {}
        for path in sorted(folder.glob("*.py")):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.FunctionDef):
                    assert node.name not in seen, f"{node.name}: {seen.get(node.name)} and {path}"
                    seen[node.name] = path
