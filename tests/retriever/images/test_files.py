"""Files that cannot be read, or not any more: each is named, and nothing else is lost."""

import os
import pickle
import struct
import sys
from pathlib import Path

import pytest
from pictures import encoded, picture, turned
from PIL import Image
from programs import in_threads

from flashmatch.retriever.gallery import Gallery, Photograph, cut_views, photographs_in
from flashmatch.retriever.images import UnreadableImage, read_image

posix = pytest.mark.skipif(os.name != "posix", reason="files of POSIX")


def raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def load(*_: object) -> None:
        raise error

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (struct.error("not an integer"), "error: not an integer"),
        (RuntimeError("Failed\nto decode"), "RuntimeError: Failed to decode"),
        (RecursionError("\x1b[2J deep"), "RecursionError: \\x1b[2J deep"),
        (KeyError(3), "KeyError: 3"),
        (UserWarning("as an error"), "UserWarning: as an error"),
        (OSError(5, "Input/output error"), "Input/output error"),
        (AssertionError(), "AssertionError:"),
        (Exception("x" * 10_000), "Exception: ..."),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_any_exception_is_that_files_alone(
    error: Exception, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture("RGB").save(tmp_path / "a.png")
    picture("RGB").save(tmp_path / "b.jpg")
    raising(monkeypatch, error)
    photographs = photographs_in(tmp_path)
    assert [photograph.name for photograph in photographs.found] == ["b.jpg"]
    assert photographs.skipped == [f"a.png: {reason}"]
    with pytest.raises(ValueError, match="inputs must be a readable image") as raised:
        encoded(tmp_path / "a.png")
    assert str(raised.value).endswith(reason)


@pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt(), SystemExit(3)])
def test_lack_of_memory_and_interrupts_are_nobodys_damage(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture("RGB").save(tmp_path / "a.png")
    raising(monkeypatch, error)
    with pytest.raises(type(error)):
        photographs_in(tmp_path)
    with pytest.raises(type(error)):
        encoded(tmp_path / "a.png")


@pytest.mark.filterwarnings("error")
def test_a_warning_that_is_an_error_is_one_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    picture("RGB", (50, 50)).save(tmp_path / "bomb.png")
    picture("RGB", (90, 50)).save(tmp_path / "larger.png")
    picture("RGB", (20, 20)).save(tmp_path / "small.png")
    photographs = photographs_in(tmp_path)
    assert [photograph.name for photograph in photographs.found] == ["small.png"]
    reasons = [line.split(":")[1] for line in photographs.skipped]
    assert reasons == [" DecompressionBombWarning", " DecompressionBombError"]


def test_broken_exif_is_said(tmp_path: Path) -> None:
    exif = turned(6)
    exif[0x010F] = "Maker"
    picture("RGB").save(tmp_path / "x.jpg", exif=exif)
    content = bytearray((tmp_path / "x.jpg").read_bytes())
    content[content.find(b"MM\0*") + 11] = 0
    (tmp_path / "x.jpg").write_bytes(content)
    photographs = photographs_in(tmp_path)
    assert photographs.found == []
    assert photographs.skipped == ["x.jpg: error: required argument is not an integer"]


# Files that are none


@posix
def test_pipes_devices_and_links_that_lead_nowhere(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nothing")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "null.png").symlink_to("/dev/null")
    picture("RGB").save(tmp_path / "z.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "z.png")
    photographs = photographs_in(tmp_path)
    assert [photograph.name for photograph in photographs.found] == ["link.png", "z.png"]
    assert photographs.skipped == [
        "gone.png: No such file or directory",
        f"loop.png: {os.strerror(40 if sys.platform == 'linux' else 62)}",
        "null.png: it is no regular file",
        "pipe.png: it is no regular file",
    ]
    with pytest.raises(ValueError, match="it is no regular file"):
        encoded(tmp_path / "pipe.png")


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture("RGB").save(tmp_path / "a.png")
    picture("RGB").save(tmp_path / "b.png")
    opened = Image.open

    def refuse(path: Path, **options) -> Image.Image:
        if Path(path).name == "a.png":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, **options)

    monkeypatch.setattr(Image, "open", refuse)
    photographs = photographs_in(tmp_path)
    assert [photograph.name for photograph in photographs.found] == ["b.png"]
    assert photographs.skipped == ["a.png: Permission denied"]


def test_a_folder_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    picture("RGB").save(tmp_path / "a.png")
    listed = os.scandir

    def refuse(path: str) -> object:
        if Path(path).name == "er":
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", refuse)
    photographs = photographs_in(tmp_path)
    assert [photograph.name for photograph in photographs.found] == ["a.png"]
    assert photographs.skipped == ["deep/er: Permission denied"]


@pytest.mark.parametrize("is_gone", [True, False])
def test_a_file_that_changes_after_it_was_listed(is_gone: bool, tmp_path: Path) -> None:
    picture("RGB", (64, 64)).save(tmp_path / "a.png")
    gallery = Gallery(cut_views(photographs_in(tmp_path).found, 5), 32)
    if is_gone:
        (tmp_path / "a.png").unlink()
    else:
        (tmp_path / "a.png").write_bytes(b"no more")
    with pytest.raises(UnreadableImage, match=r"a\.png': (No such file|cannot identify)") as raised:
        gallery[2]
    assert str(tmp_path) in str(raised.value)


def test_an_error_survives_a_loaders_processes(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage) as raised:
        read_image(tmp_path / "no.png")
    twin = pickle.loads(pickle.dumps(raised.value))
    assert (str(twin), twin.reason) == (str(raised.value), "No such file or directory")
    assert isinstance(UnreadableImage("one text, as torch makes them again"), ValueError)


def test_images_are_read_in_threads(tmp_path: Path) -> None:
    picture("RGBA").save(tmp_path / "x.png")
    found = in_threads(read_image, [tmp_path / "x.png"] * 8)
    expected = read_image(tmp_path / "x.png").tobytes()
    assert [image.tobytes() for image in found] == [expected] * 8


def test_held_photographs_are_themselves() -> None:
    image = picture("RGB")
    assert Photograph("held", image, image.size).load() is image
