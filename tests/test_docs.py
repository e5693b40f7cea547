"""What the documents show, runs."""

import re
from pathlib import Path

import pytest
import torch

DOCS = Path(__file__).parents[1] / "docs" / "integrations"
RUN_HERE = ("torch.md",)
"""Whose blocks need no more than the tests do. They run in order, in one namespace."""


def blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)


@pytest.mark.parametrize("name", RUN_HERE)
def test_python_blocks_run(name: str) -> None:
    path = DOCS / name
    found = blocks(path.read_text())
    assert found
    torch.manual_seed(0)
    torch._dynamo.reset()
    namespace: dict = {"__name__": "__docs__"}
    for i, block in enumerate(found):
        exec(compile(block, f"{path.name}, block {i + 1}", "exec"), namespace)
    torch._dynamo.reset()


def test_blocks_are_found() -> None:
    text = "a\n```python\nx = 1\n```\nb\n```\nnot this\n```\n```python\ny = 2\n```\n"
    assert blocks(text) == ["x = 1\n", "y = 2\n"]
