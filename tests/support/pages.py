"""README and docs/ as programs: what their code blocks say, and in which environment they run.

A page is one program, its ``python`` blocks in order. What it prints is shown in the ``text``
blocks right below them. A ``diff`` shows what changes, ``bash`` is for a shell, other ``text`` is
to be read.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from programs import output_of

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
KINDS = ("python", "text", "diff", "bash")
RUNS_IN = {
    "tests": (
        "README.md",
        "docs/architecture.md",
        "docs/integrations/metrics.md",
        "docs/integrations/torch.md",
        "docs/labels.md",
        "docs/search.md",
        "docs/self_join.md",
        "docs/threshold.md",
    ),
    "dropin": (
        "docs/integrations/faiss.md",
        "docs/integrations/lightly.md",
        "docs/integrations/pytorch-metric-learning.md",
        "docs/integrations/scikit-learn.md",
        "docs/integrations/sentence-transformers.md",
    ),
    "mmpretrain": ("docs/integrations/mmpretrain.md",),
}
"""The environments of `make test-torch`, `test-libraries`, `test-mmpretrain` and `test-onedl`."""


class Block(NamedTuple):
    kind: str
    text: str
    line: int  # of its first line, from 0
    is_output: bool  # nothing but blank lines between it and a python block


def blocks(page: str) -> Iterator[Block]:
    end, before = 0, ""
    for found in re.finditer(r"^```(.*)\n((?:.*\n)*?)```$", page, re.MULTILINE):
        kind, text = found.groups()
        follows = before == "python" and not page[end : found.start()].strip()
        yield Block(kind, text, page[: found.start(2)].count("\n"), kind == "text" and follows)
        end, before = found.end(), kind


def program(page: str) -> str:
    """The python blocks, on the lines where they stand, so that errors name the page's lines."""
    lines: list[str] = []
    for block in blocks(page):
        if block.kind == "python":
            lines += [""] * (block.line - len(lines)) + block.text.splitlines()
    return "\n".join(lines) + "\n"


def shown(page: str) -> str:
    """What the page says that it prints."""
    return "".join(block.text for block in blocks(page) if block.is_output)


def run(page: str, folder: Path) -> str:
    """What the program prints, run in ``folder`` by a Python of its own.

    Raises:
        AssertionError: it fails, with its traceback.
    """
    (folder / "page.py").write_text(program(page))
    return output_of("page.py", cwd=folder, timeout=600)
