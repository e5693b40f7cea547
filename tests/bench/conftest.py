"""What keeps a run of `bench gpu` inside a test's own folder."""

from pathlib import Path

import pytest


@pytest.fixture
def no_side_effects(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Links of its own, and none of the machine's settings."""
    from measuring import links

    monkeypatch.setattr(links, "TREE", tmp_path.parent / f"{tmp_path.name}-links")
    for name in ("OUT", "TRITON_CACHE_DIR", "FLASHMATCH_CACHE"):
        monkeypatch.delenv(name, raising=False)
