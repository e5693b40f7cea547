"""The checkout under its installed names, as a tree of links in build/links.

Type checkers cannot follow an editable install's folder mapping, a borrowed GPU machine may have no
network to install with, and another commit is not installed; all take such a tree as import path.
"""

import re
import shutil
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TREE = ROOT / "build" / "links"
RETRIEVER_NEEDS = ("PIL", "numpy", "safetensors", "tqdm")
KERNELS_ONLY = '''"""The front door of a machine that can match vectors but not read images."""

from importlib.metadata import version

from flashmatch.kernels import *

__version__ = version("flashmatch")
'''


def link(root: Path = ROOT, tree: Path | None = None) -> Path:
    """Make the tree anew and return it; kernels alone where what the rest needs is absent."""
    tree = tree or TREE
    package = tree / "flashmatch"
    shutil.rmtree(tree, ignore_errors=True)
    package.mkdir(parents=True)
    (package / "kernels").symlink_to(root / "kernels")
    if all(map(find_spec, RETRIEVER_NEEDS)):
        for folder in ("retriever", "adapters"):
            (package / folder).symlink_to(root / folder)
        for source in (root / "src" / "flashmatch").iterdir():
            if source.name != "__pycache__":
                (package / source.name).symlink_to(source)
    else:
        (package / "__init__.py").write_text(KERNELS_ONLY)
    _describe(root, tree)
    return tree


def _describe(root: Path, tree: Path) -> None:
    """flashmatch.__version__ is read from the metadata of an installed distribution."""
    found = re.search(r'^version = "(.+)"$', (root / "pyproject.toml").read_text(), re.MULTILINE)
    version = found[1] if found else "0"
    info = tree / f"flashmatch-{version}.dist-info"
    info.mkdir()
    metadata = f"Metadata-Version: 2.1\nName: flashmatch\nVersion: {version}\n"
    (info / "METADATA").write_text(metadata)
