"""The pages of the libraries that are stood in for, run beside these libraries."""

from pathlib import Path

import pages
import pytest


@pytest.mark.parametrize("name", pages.RUNS_IN["dropin"])
def test_page_runs(name: str, tmp_path: Path) -> None:
    page = (pages.ROOT / name).read_text()
    assert pages.run(page, tmp_path) == pages.shown(page)
