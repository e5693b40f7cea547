"""Damaged images of every format: read, or listed as unreadable; nothing escapes, none is lost."""

import random
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults import defects, images
from hypothesis import given
from hypothesis import strategies as st
from pictures import originals, picture
from PIL import Image


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as made:
        images.add_neighbours(Path(made))
        yield Path(made)


@pytest.mark.hypothesis
@given(
    name=st.sampled_from(sorted(originals())),
    seed=st.integers(0, 2**63),
    filters=st.sampled_from(("ignore", "error")),
)
def test_a_damaged_file_is_read_or_listed(folder: Path, name: str, seed: int, filters: str) -> None:
    path = folder / f"damaged{Path(name).suffix}"
    path.write_bytes(images.damaged(name, random.Random(seed)))
    with warnings.catch_warnings():
        warnings.simplefilter(filters)
        outcome = images.outcome(path)
    path.unlink()
    assert defects({outcome: 1}) == {}


def test_a_run_counts_every_trial(tmp_path: Path) -> None:
    counts = images.run(200, 1, tmp_path)
    assert sum(counts.values()) == 200
    assert set(counts) == {"read", "unreadable"}


def test_originals_are_of_every_format_and_are_read(tmp_path: Path) -> None:
    images.add_neighbours(tmp_path)
    suffixes = {Path(name).suffix for name in originals()}
    assert suffixes >= {".jpg", ".png", ".bmp", ".gif", ".webp", ".tif"}
    for name, content in originals().items():
        path = tmp_path / f"damaged{Path(name).suffix}"
        path.write_bytes(content)
        assert images.outcome(path) == "read"
        path.unlink()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("escape", "ESCAPED: RuntimeError with .png"),
        ("loss", "LOST: a good neighbour"),
        ("silence", "WRONG: nothing is said"),
        ("lines", "WRONG: nothing is said"),
        ("other pixels", "WRONG: .png differs from its PIL image"),
        ("memory", "WRONG: .png took 8 GiB"),
        ("time", "WRONG: .png took 99 s"),
    ],
)
def test_each_defect_is_seen(
    fault: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images.add_neighbours(tmp_path)
    path = tmp_path / "damaged.png"
    path.write_bytes(b"" if fault in ("silence", "lines") else originals()["RGB.png"])
    listed = images.photographs_in

    def photographs_in(folder: Path) -> object:
        if fault == "escape":
            raise RuntimeError
        photographs = listed(folder)
        if fault == "loss":
            return photographs._replace(found=photographs.found[:-1])
        return photographs._replace(
            skipped={"silence": [], "lines": ["damaged.png: two\nlines"]}.get(fault, [])
        )

    monkeypatch.setattr(images, "photographs_in", photographs_in)
    if fault == "other pixels":
        sizes = {True: (37, 29), False: (37, 30)}
        monkeypatch.setattr(
            images, "read_image", lambda x: picture("RGB", sizes[isinstance(x, Image.Image)])
        )
    if fault == "memory":
        peaks = iter((0, 8 << 30, 8 << 30))
        monkeypatch.setattr(images, "_peak", lambda: next(peaks))
    if fault == "time":
        times = iter((0.0, 99.0, 99.0))
        monkeypatch.setattr(images.time, "process_time", lambda: next(times))
    assert images.outcome(path) == said
    assert defects({said: 1})
