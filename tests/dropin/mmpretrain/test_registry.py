"""The prefix of a type is enough for mmengine to find the adapter, in a process without it."""

import subprocess
import sys

import pytest

FIND = """
from mmpretrain.registry import {registry}
print({registry}.get("flashmatch.{name}").__module__)
"""


@pytest.mark.parametrize(
    ("registry", "name", "module"),
    [
        ("MODELS", "ImageToImageRetriever", "retriever"),
        ("METRICS", "RetrievalRecall", "metrics"),
        ("METRICS", "RetrievalAveragePrecision", "metrics"),
    ],
)
def test_types_are_found_by_their_prefix(registry: str, name: str, module: str) -> None:
    code = FIND.format(registry=registry, name=name)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split()[-1] == f"flashmatch.retriever.mmpretrain.{module}"
