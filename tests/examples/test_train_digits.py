"""The training example does what it says."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

EXAMPLE = str(Path(__file__).parents[2] / "examples" / "train_digits.py")


def test_recall_rises_on_digits(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    example = SimpleNamespace(**runpy.run_path(EXAMPLE))
    before, after = example.main(epochs=3)
    assert before < 0.6
    assert after > before + 0.2
    assert "trained" in capsys.readouterr().out
