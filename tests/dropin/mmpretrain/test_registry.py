"""The prefix of a type is enough for mmengine to find the adapter, in a process without it."""

import pytest
from programs import output_of

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
    printed = output_of("-c", FIND.format(registry=registry, name=name))
    assert printed.split()[-1] == f"flashmatch.retriever.mmpretrain.{module}"
