"""The example script, by either import."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "faiss_search.py"


def test_the_import_is_all_that_differs() -> None:
    pytest.importorskip("faiss")
    outputs = []
    for library in ("flashmatch", "faiss"):
        run = [sys.executable, str(SCRIPT), "--with", library]
        outputs.append(subprocess.run(run, capture_output=True, text=True, check=True).stdout)
    assert outputs[0] == outputs[1]
    all_digits, even, fewer = (float(x) for x in re.findall(r"accuracy ([\d.]+)", outputs[0]))
    assert all_digits > 0.97
    assert even < 0.6
    assert all_digits > fewer > 0.9
