"""The example runs, and says the same whichever module its neighbours come from."""

import importlib.util
from pathlib import Path

import pytest

PATH = Path(__file__).resolve().parents[2] / "examples" / "sklearn_neighbors.py"


def test_both_modules_do_equally_well(capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("sklearn_neighbors", PATH)
    assert spec
    assert spec.loader
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    found, expected = example.main("flashmatch"), example.main("sklearn")
    assert found == pytest.approx(expected, abs=2e-3)  # pixels tie, and ties are broken otherwise
    assert found[0] > 0.96
    assert found[1] > 0.9
    assert "flashmatch.adapters.sklearn" in capsys.readouterr().out
