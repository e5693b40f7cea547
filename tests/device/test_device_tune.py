"""The sweep of tiles on a CUDA device: none may differ from the plainest, and plans follow it."""

import warnings
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)
pytest.importorskip("triton")

from flashmatch.kernels import tune
from flashmatch.kernels.triton_backend import tuned_tiles


def test_every_tile_agrees_and_the_fastest_is_kept(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a tile that is left out says so
        path = tune(
            "cuda", channels=(64, 128), queries=(128,), rows=65536, path=tmp_path / "t.json"
        )
    table = tuned_tiles.read(path)
    assert table is not None
    assert [row.channels for row in table.rows] == [64, 128]
