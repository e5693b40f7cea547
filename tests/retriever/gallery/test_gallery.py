"""Galleries: which files are photographs, how they are cut, and what a broken one does."""

from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image

from flashmatch.retriever import distort
from flashmatch.retriever.gallery import (
    Box,
    Gallery,
    Photograph,
    cut_views,
    describe_views,
    photographs_in,
    shipped_photographs,
)
from flashmatch.retriever.images import read_image

RED, BLUE = (255, 0, 0), (0, 0, 255)


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_a_folder_is_read_recursively_and_in_order(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / ".hidden").mkdir()
    for name in ("b.PNG", "deep/er/c.webp", "a.jpg", ".hidden/d.png", "._a.jpg"):
        noise(40, 30).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "folder.png").mkdir()
    photographs = photographs_in(tmp_path)
    assert [photograph.name for photograph in photographs.found] == [
        "a.jpg",
        "b.PNG",
        "deep/er/c.webp",
    ]
    assert photographs.skipped == []


def test_damaged_files_are_skipped_and_named(tmp_path: Path) -> None:
    noise(64, 64).save(tmp_path / "good.png")
    noise(64, 64).save(tmp_path / "whole.jpg")
    data = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "whole.jpg").unlink()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "lies.gif").write_text("not a GIF")
    photographs = photographs_in(tmp_path)
    assert [photograph.name for photograph in photographs.found] == ["good.png"]
    assert [line.split(":")[0] for line in photographs.skipped] == [
        "cut.jpg",
        "empty.png",
        "lies.gif",
    ]
    assert str(tmp_path) not in " ".join(photographs.skipped)


def test_exif_orientation_is_followed(tmp_path: Path) -> None:
    image = Image.new("RGB", (40, 20), RED)
    image.paste(BLUE, (20, 0, 40, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    image.save(tmp_path / "turned.png", exif=exif)
    upright = read_image(tmp_path / "turned.png")
    assert upright.size == (20, 40)
    assert (upright.getpixel((10, 5)), upright.getpixel((10, 35))) == (RED, BLUE)


def test_every_kind_of_pixel_becomes_rgb(tmp_path: Path) -> None:
    grey16 = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    images = {
        "grey16.png": Image.fromarray(grey16),
        "clear.png": clear,
        "bits.png": Image.new("1", (8, 8), 1),
        "palette.gif": noise(8, 8).convert("P"),
        "cmyk.jpg": Image.new("CMYK", (8, 8)),
    }
    for name, image in images.items():
        image.save(tmp_path / name)
        assert read_image(tmp_path / name).mode == "RGB", name
    assert read_image(tmp_path / "clear.png").getpixel((0, 0)) == (255, 255, 255)
    assert read_image(tmp_path / "grey16.png").getextrema()[0] == (0, 255)


def test_large_images_are_reduced_in_proportion(tmp_path: Path) -> None:
    for name in ("large.png", "large.jpg"):
        noise(1200, 600).save(tmp_path / name)
        assert read_image(tmp_path / name, max_side=300).size == (300, 150)


def test_tiles_of_a_grid_cover_the_photograph_once() -> None:
    photograph = Photograph("noise", noise(131, 97), (131, 97))
    views = cut_views([photograph], at_least=14)
    assert [view.place.split()[-1] if view.place else "" for view in views] == (
        [""] + ["2x2"] * 4 + ["3x3"] * 9
    )
    for grid in (views[1:5], views[5:]):
        seen = np.zeros((97, 131), dtype=int)
        for view in grid:
            left, top, right, bottom = view.box
            seen[top:bottom, left:right] += 1
        assert (seen == 1).all()


def test_grids_are_added_only_until_there_are_enough_and_room() -> None:
    large, small = (Photograph(str(n), noise(n, n), (n, n)) for n in (320, 25))
    assert len(cut_views([large, small], at_least=2)) == 2
    views = cut_views([large, small], at_least=3)
    assert [view.label for view in views] == [
        "320",
        *(f"320, tile {i} of 2x2" for i in (1, 2, 3, 4)),
        "25",
    ]
    assert max(len(view.place) for view in cut_views([small], at_least=1000)) == 0
    assert describe_views(views) == "1 photograph, 4 tiles, 1 patch below 64 pixels"


def test_overlap_needs_one_photograph_and_half_of_the_smaller_view() -> None:
    a, b = (Photograph(name, noise(128, 128), (128, 128)) for name in "ab")
    whole, first, second = cut_views([a], at_least=5)[:3]
    assert whole.overlaps(first)
    assert first.overlaps(whole)
    assert not first.overlaps(second)
    assert not whole.overlaps(cut_views([b], at_least=1)[0])
    assert Box(0, 0, 10, 10).shared(Box(5, 0, 15, 10)) == 0.5
    assert Box(0, 0, 10, 10).shared(Box(20, 20, 30, 30)) == 0


def test_a_gallery_gives_fitted_images_that_know_their_row(tmp_path: Path) -> None:
    noise(128, 80).save(tmp_path / "a.png")
    gallery = Gallery(cut_views(photographs_in(tmp_path).found, at_least=5), image_size=32)
    assert len(gallery) == 5
    item = gallery[3]
    assert item["inputs"].size == (32, 32)
    assert item["data_samples"].sample_idx == 3
    expected = noise(128, 80).crop(gallery.views[3].box)
    assert gallery.image(3).tobytes() == expected.tobytes()


def test_distortion_is_seeded_and_does_something() -> None:
    image = noise(90, 60)
    same = [distort.distort(image, Random(7)).tobytes() for _ in range(2)]
    assert same[0] == same[1] != distort.distort(image, Random(8)).tobytes()
    copies = [distort.crop(image, Random(seed)) for seed in range(50)]
    shares = [copy.width * copy.height / (90 * 60) for copy in copies]
    assert 0.58 < min(shares) < 0.65
    assert 0.75 < max(shares) < 0.82


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (25, 25)])
def test_distortion_survives_tiny_images(size: tuple[int, int]) -> None:
    assert min(distort.distort(noise(*size), Random(0)).size) >= 1


def test_the_shipped_photographs_make_a_thousand_images() -> None:
    pytest.importorskip("skimage")
    photographs = shipped_photographs().found
    names = [photograph.name for photograph in photographs]
    assert {"astronaut", "chelsea", "coffee", "rocket", "face 1", "patch 100"} <= set(names)
    assert len(cut_views(photographs, at_least=1000)) >= 1000
