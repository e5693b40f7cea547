"""Which formats are read, whatever the file is called, and what its name may do."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flashmatch.retriever.gallery import View, photographs_in
from flashmatch.retriever.gallery.photographs import SUFFIXES
from flashmatch.retriever.images import UnreadableImage, open_image, read_image
from flashmatch.retriever.images.read import FORMATS
from flashmatch.retriever.names import printable


def test_formats_and_suffixes_are_the_same_list() -> None:
    Image.init()
    known = {suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS}
    assert known >= SUFFIXES
    assert known - SUFFIXES <= {".apng", ".avifs", ".jfif", ".jpe", ".mpo"}


@pytest.mark.parametrize("name", ["EPS", "PPM", "TGA", "PDF", "ICO"])
def test_other_formats_under_these_names_reach_no_decoder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "harmless.png", name)
    Image.init()
    opened: list[str] = []
    for each, (_, accept) in list(Image.OPEN.items()):
        if each not in FORMATS:
            monkeypatch.setitem(Image.OPEN, each, (lambda *_, x=each: opened.append(x), accept))
    with pytest.raises(UnreadableImage, match="cannot identify"):
        read_image(tmp_path / "harmless.png")
    found = photographs_in(tmp_path)
    assert (found.found, len(found.skipped), opened) == ([], 1, [])


@pytest.mark.parametrize("name", [n for n in FORMATS if n != "AVIF"])
def test_each_format_is_read(name: str, tmp_path: Path) -> None:
    path = tmp_path / "image.png"  # whatever it is called
    Image.fromarray(np.full((40, 50, 3), 200, np.uint8)).save(path, name)
    assert read_image(path).size == (50, 40)
    with open_image(path) as file:
        assert file.format in (name, "MPO")


def test_large_images_are_reduced_in_proportion(tmp_path: Path) -> None:
    for name in ("large.png", "large.jpg"):
        Image.new("RGB", (1200, 600)).save(tmp_path / name)
        assert read_image(tmp_path / name, max_side=300).size == (300, 150)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("plain name.jpg", "plain name.jpg"),
        ("Grüße 写真 \U0001f408.jpg", "Grüße 写真 \U0001f408.jpg"),
        ("a\x1b[2Jb\n\r\t\x07.jpg", "a\\x1b[2Jb\\n\\r\\t\\x07.jpg"),
        ("a\u202egnp.gpj.png", "a\\u202egnp.gpj.png"),
        ("\u2066a\u2069\u200f\x85.png", "\\u2066a\\u2069\\u200f\\x85.png"),
        ("J\udce4rvi.png", "J�rvi.png"),
    ],
)
def test_names_steer_neither_terminal_nor_page(name: str, shown: str, tmp_path: Path) -> None:
    assert printable(name) == shown
    printable(name).encode()
    Image.new("RGB", (64, 64)).save(tmp_path / "x.png")
    try:
        (tmp_path / "x.png").rename(tmp_path / name)
        (tmp_path / f"broken {name}").write_bytes(b"no image")
    except OSError:
        pytest.skip("not a name here")
    photographs = photographs_in(tmp_path)
    (found,) = photographs.found
    assert View(found, (0, 0, 64, 64), "").label == shown  # type: ignore[arg-type]
    assert View(found, (0, 0, 64, 64), "tile 1").label == f"{shown}, tile 1"  # type: ignore
    assert photographs.skipped[0].startswith(f"broken {shown}: ")
    assert photographs.skipped[0].isprintable()
