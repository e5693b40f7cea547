"""The checkout under its installed names, as a tree of links in build/links.

Type checkers cannot follow an editable install's folder mapping, and a borrowed GPU machine may
have no network to install with; both take this tree as an import path.
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


def link() -> Path:
    """Make the tree anew and return it; kernels alone where what the rest needs is absent."""
    package = TREE / "flashmatch"
    shutil.rmtree(TREE, ignore_errors=True)
    package.mkdir(parents=True)
    (package / "kernels").symlink_to(ROOT / "kernels")
    if all(map(find_spec, RETRIEVER_NEEDS)):
        for folder in ("retriever", "adapters"):
            (package / folder).symlink_to(ROOT / folder)
        for source in (ROOT / "src" / "flashmatch").iterdir():
            if source.name != "__pycache__":
                (package / source.name).symlink_to(source)
    else:
        (package / "__init__.py").write_text(KERNELS_ONLY)
    _describe()
    return TREE


def _describe() -> None:
    """flashmatch.__version__ is read from the metadata of an installed distribution."""
    found = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    version = found[1] if found else "0"
    info = TREE / f"flashmatch-{version}.dist-info"
    info.mkdir()
    metadata = f"Metadata-Version: 2.1\nName: flashmatch\nVersion: {version}\n"
    (info / "METADATA").write_text(metadata)
