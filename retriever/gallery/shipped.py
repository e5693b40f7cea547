"""The photographs in the scikit-image wheel."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from ..images.read import read_image
from .photographs import MAX_SIDE, Photograph, Photographs

# What is a photograph among the data files of the scikit-image wheel; the others are drawings,
# test patterns and masks. All of these lie in the wheel itself: nothing is downloaded.
SHIPPED = (
    "astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "clock_motion.png",
    "coffee.png", "coins.png", "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png",
    "microaneurysms.png", "moon.png", "motorcycle_left.png", "motorcycle_right.png", "page.png",
    "retina.jpg", "rocket.jpg", "text.png",
)  # fmt: skip
SHIPPED_PATCHES = "lfw_subset.npy"  # (200, 25, 25) in 0..1: a hundred faces, then a hundred others
SHIPPED_FACES = 100


def shipped_photographs() -> Photographs:
    """The photographs of the installed scikit-image, then its small patches.

    Raises:
        ImportError: scikit-image is not installed, or has none of them.
    """
    spec = find_spec("skimage")  # found, not imported: that would take a second
    places = spec.submodule_search_locations if spec else None
    if not places:
        raise ImportError("the demo's photographs come from the scikit-image wheel")
    folder = Path(places[0]) / "data"
    paths = [folder / name for name in SHIPPED]
    found = [
        Photograph(path.stem, path, read_image(path, MAX_SIDE).size)
        for path in paths
        if path.exists()
    ]
    if not found:
        raise ImportError(f"this scikit-image has none of its photographs in {folder}")
    return Photographs(found + _shipped_patches(folder / SHIPPED_PATCHES), [])


def _shipped_patches(path: Path) -> list[Photograph]:
    if not path.exists():
        return []
    patches = np.load(path)
    images = [Image.fromarray(np.uint8(255 * patch)).convert("RGB") for patch in patches]
    return [
        Photograph(
            f"face {i + 1}" if i < SHIPPED_FACES else f"patch {i + 1 - SHIPPED_FACES}",
            image,
            image.size,
        )
        for i, image in enumerate(images)
    ]
