"""Comparisons of one round: what they say is tested, not how fast they are."""

import pytest


@pytest.fixture(autouse=True)
def _few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flashmatch.retriever.demo.compare.ROUNDS", (1, 1))
