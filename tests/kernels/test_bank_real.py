"""Vectors as they come: pixels of photographs, and an encoder's features of them."""

import pytest
import torch
from problems import METRICS, Problem, assert_exact
from screens import CODED, INT8
from torch import Tensor

from flashmatch import PrototypeBank

data = pytest.importorskip("skimage.data")
pytestmark = pytest.mark.usefixtures("screened_in_pieces")


def crops(size: int, step: int) -> Tensor:
    """(n, 3, size, size) overlapping pieces of photographs, 0 to 1."""
    pieces = []
    for name in ("astronaut", "coffee", "chelsea"):
        image = torch.from_numpy(getattr(data, name)().copy()).permute(2, 0, 1).float() / 255
        tiles = image.unfold(1, size, step).unfold(2, size, step)
        pieces.append(tiles.permute(1, 2, 0, 3, 4).flatten(0, 1))
    return torch.cat(pieces)


@pytest.fixture(scope="module")
def features() -> Tensor:
    pytest.importorskip("efficientnet_lite_pytorch")
    from flashmatch.retriever.model.encoders import build_encoder

    encoder = build_encoder("efficientnet-lite0").eval()
    with torch.no_grad():
        outputs = encoder(torch.nn.functional.interpolate(crops(96, 40), size=128))
    outputs = outputs[-1] if isinstance(outputs, (tuple, list)) else outputs
    return outputs.flatten(2).mean(2) if outputs.ndim == 4 else outputs


@pytest.mark.parametrize("metric", METRICS)
def test_pixels(metric: str) -> None:
    pixels = crops(12, 7).flatten(1)
    generator = torch.Generator().manual_seed(0)
    queries = pixels[::499] + 0.02 * torch.randn(len(pixels[::499]), 432, generator=generator)
    bank = PrototypeBank(pixels, metric=metric, screen=CODED)
    assert_exact(bank.topk(queries, 10), Problem(queries, [pixels], 10, metric))
    assert bank.stats.repaired == 0
    assert bank.stats.rows_rescored < 40 * len(queries)


@pytest.mark.parametrize("metric", METRICS)
def test_features(features: Tensor, metric: str) -> None:
    bank = PrototypeBank(features, metric=metric, screen=CODED)
    queries = features[::5] + features[1::5][: len(features[::5])].mean(0) * 0.01
    assert_exact(bank.topk(queries, 10), Problem(queries, [features], 10, metric))
    if not INT8:
        return
    assert bank._state.coder.codes.frame.rotation is not None  # a few channels outshine the others
    assert bank.stats.repaired == 0
    assert bank.stats.rows_rescored < 20 * len(queries)
