"""Galleries: which files are photographs, how they are cut, and what a broken one does."""

from pathlib import Path

import numpy as np
import pytest
from pictures import noise

from flashmatch.retriever.gallery import (
    Gallery,
    Photograph,
    cut_views,
    photographs_in,
    shipped_photographs,
)
from flashmatch.retriever.gallery.views import Box, describe_views


def test_a_folder_is_read_recursively_and_in_order(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / ".hidden").mkdir()
    for name in ("b.PNG", "deep/er/c.webp", "a.jpg", ".hidden/d.png", "._a.jpg"):
        noise(40, 30).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "folder.png").mkdir()
    photographs = photographs_in(tmp_path)
    names = [photograph.name for photograph in photographs.found]
    assert names == ["a.jpg", "b.PNG", "deep/er/c.webp"]
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
    skipped = [line.split(":")[0] for line in photographs.skipped]
    assert skipped == ["cut.jpg", "empty.png", "lies.gif"]
    assert str(tmp_path) not in " ".join(photographs.skipped)


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


def test_the_shipped_photographs_make_a_thousand_images() -> None:
    pytest.importorskip("skimage")
    photographs = shipped_photographs().found
    names = [photograph.name for photograph in photographs]
    assert {"astronaut", "chelsea", "coffee", "rocket", "face 1", "patch 100"} <= set(names)
    assert len(cut_views(photographs, at_least=1000)) >= 1000
