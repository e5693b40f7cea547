"""The example trains, and finds more digits than chance; both kinds of scores evaluate alike."""

import runpy
from pathlib import Path

import pytest
from programs import output_of

EXAMPLE = Path(__file__).parents[3] / "examples/mmpretrain_inshop.py"


def test_example() -> None:
    dense = runpy.run_path(str(EXAMPLE))["main"](epochs=2, count=300)
    assert dense["retrieval/Recall@1"] > 40  # of ten digits
    printed = output_of(EXAMPLE, "--epochs", "2", "--count", "300", "--exact")
    exact = {name: float(printed.rpartition(f"\n{name} ")[2].split()[0]) for name in dense}
    assert exact == pytest.approx(dense, abs=1.5)  # one query of 100, should near ties swap
