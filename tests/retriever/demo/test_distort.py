"""Distortion: drawn from a seed, within its bounds, of images of any size."""

from random import Random

import pytest
from pictures import noise

from flashmatch.retriever.demo.distort import crop, distort


def test_distortion_is_seeded_and_does_something() -> None:
    image = noise(90, 60)
    same = [distort(image, Random(7)).tobytes() for _ in range(2)]
    assert same[0] == same[1] != distort(image, Random(8)).tobytes()
    copies = [crop(image, Random(seed)) for seed in range(50)]
    shares = [copy.width * copy.height / (90 * 60) for copy in copies]
    assert 0.58 < min(shares) < 0.65
    assert 0.75 < max(shares) < 0.82


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (25, 25)])
def test_distortion_survives_tiny_images(size: tuple[int, int]) -> None:
    assert min(distort(noise(*size), Random(0)).size) >= 1
