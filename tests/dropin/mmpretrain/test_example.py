"""The example trains, and finds more digits than chance; both kinds of scores evaluate alike."""

import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[3] / "examples/mmpretrain_inshop.py"


def test_example() -> None:
    main = runpy.run_path(str(EXAMPLE))["main"]
    dense, exact = (main(epochs=2, count=300, exact=exact) for exact in (False, True))
    assert dense["retrieval/Recall@1"] > 40  # of ten digits
    assert exact == pytest.approx(dense, abs=1.5)  # one query of 100, should near ties swap
