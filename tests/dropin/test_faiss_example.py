"""The example script by either import, and what docs/integrations/faiss.md shows."""

import re
from pathlib import Path

import pytest
from programs import output_of

import flashmatch.adapters.faiss as ours

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "faiss_search.py"
PAGE = ROOT / "docs" / "integrations" / "faiss.md"


def test_the_import_is_all_that_differs() -> None:
    pytest.importorskip("faiss")
    outputs = [output_of(SCRIPT, "--with", library) for library in ("flashmatch", "faiss")]
    assert outputs[0] == outputs[1]
    all_digits, even, fewer = (float(x) for x in re.findall(r"accuracy ([\d.]+)", outputs[0]))
    assert all_digits > 0.97
    assert even < 0.6
    assert all_digits > fewer > 0.9


def test_the_page_names_what_there_is() -> None:
    """Every public name, but for the constants and base classes."""
    page = PAGE.read_text()
    for name in set(ours.__all__) - {"Index", "IDSelector"}:
        assert name.removeprefix("IDSelector") in page or name.startswith("METRIC_")
    methods = {name for name in dir(ours.IndexIDMap2) if not name.startswith("_")}
    for name in methods - {"check_compatible_for_merge"}:
        assert f"`{name}`" in page, name
