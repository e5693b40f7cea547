"""Find near-duplicates among the images of a folder: resized, re-encoded, copied.

    python examples/dedup_folder.py --images DIR
    python examples/dedup_folder.py    # a folder made of scikit-image's photographs and copies

Two images are alike if their thumbnails correlate: brightness and contrast do not count, and an
image of one colour is like no other. Groups are what is connected by such pairs. Nothing is
deleted. ``bank.pairs`` is exact: no pair above the threshold is missed, however many there are.
"""

import argparse
import sys
from importlib.util import find_spec
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from flashmatch import PrototypeBank
from flashmatch.retriever import read_image
from flashmatch.retriever.gallery import fit, photographs_in, shipped_photographs
from flashmatch.retriever.images import open_image
from flashmatch.retriever.names import print_line, printable, quoted

SIDE = 24  # of a thumbnail in pixels
THRESHOLD = 0.95  # of the correlation


def thumbnail(image: Image.Image) -> Tensor:
    """(3 SIDE^2,) float32 of mean 0, so that a cosine is a correlation."""
    pixels = torch.from_numpy(np.array(fit(image, SIDE), dtype=np.float32)).flatten()
    return pixels - pixels.mean()


def groups_of(features: Tensor, threshold: float) -> list[list[int]]:
    """The rows connected by pairs whose cosine reaches ``threshold``: groups of two and more."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    bank = PrototypeBank(features, progress=False)
    offsets, others, scores = bank.pairs(threshold, sort=False)
    graph = csr_array((np.ones(len(scores), bool), others, offsets), shape=2 * [len(bank)])
    count, labels = connected_components(graph, directed=False)
    groups: list[list[int]] = [[] for _ in range(count)]
    for row, label in enumerate(labels):
        groups[label].append(row)
    return [group for group in groups if len(group) > 1]


def duplicates_in(folder: Path, threshold: float = THRESHOLD) -> list[list[str]]:
    """The groups of near-duplicates below ``folder``: names, the largest image of each first."""
    images, skipped = photographs_in(folder, progress=True)
    for line in skipped:
        print_line(f"skipped  {line}")
    rows = [thumbnail(image.load()) for image in tqdm(images, leave=False)]
    features = torch.stack(rows) if rows else torch.empty(0, 3 * SIDE**2)
    groups = groups_of(features, threshold)
    print(f"images   {len(images)}, of which {sum(map(len, groups))} in {len(groups)} groups")
    names = [[images[row].name for row in group] for group in groups]
    return [sorted(group, key=lambda name: -prod(size_of(folder / name))) for group in names]


def size_of(path: Path) -> tuple[int, int]:
    with open_image(path) as file:  # reads no pixels
        return file.size


def make_folder(folder: Path) -> list[set[str]]:
    """Write photographs, and altered copies of some; return the names that belong together."""
    (folder / "copies").mkdir()
    groups = []
    paths = [p.source for p in shipped_photographs().found if isinstance(p.source, Path)]
    for number, path in enumerate(paths):
        image = read_image(path, max_side=400)
        image.save(folder / f"{path.stem}.png")
        half = image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)
        copies = [f"copies/{path.stem} {kind}" for kind in ("half.png", "30.jpg", "half 60.webp")]
        made = copies[: number % 4]  # none of every fourth
        for name, copy, quality in zip(made, (half, image, half), (100, 30, 60), strict=False):
            copy.save(folder / name, quality=quality)  # PNG keeps all
        if made:
            groups.append({f"{path.stem}.png", *made})
    return groups


def main(images: Path | None = None, threshold: float = THRESHOLD) -> list[set[str]]:
    """Print the groups of near-duplicates below ``images``, and return their names.

    Raises:
        SystemExit: without ``images``, if they are not exactly those that were made.
    """
    if images is None:
        with TemporaryDirectory() as made:
            expected = make_folder(Path(made))
            found = main(Path(made), threshold)
        if sorted(map(sorted, found)) != sorted(map(sorted, expected)):
            sys.exit(f"expected {expected}")
        print(f"These are exactly the {len(expected)} groups that were made.")
        return found
    if not images.is_dir():
        sys.exit(f"--images must be a folder; got {quoted(images)}")
    groups = duplicates_in(images, threshold)
    for group in groups:
        lines = ("{} ({} x {})".format(printable(name), *size_of(images / name)) for name in group)
        print_line("\n  ".join(lines))
    return [set(group) for group in groups]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Find near-duplicates among images")
    parser.add_argument("--images", type=Path)
    parser.add_argument("--threshold", type=float, default=THRESHOLD)
    options = parser.parse_args()
    module, package = ("scipy", "scipy") if options.images else ("skimage", "scikit-image")
    if not find_spec(module):
        sys.exit(f'{sys.argv[0]} needs {package}: pip install "flashmatch[examples]"')
    main(**vars(options))
