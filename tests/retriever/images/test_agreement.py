"""One file, however it is given, has one picture: the first, upright, in the same pixels."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import encoded, originals, picture, turned
from PIL import Image, ImageOps

from flashmatch.retriever.gallery import photographs_in
from flashmatch.retriever.gallery.photographs import MAX_SIDE
from flashmatch.retriever.images import read_image


@pytest.mark.parametrize("name", originals())
def test_a_gallery_and_its_queries_agree_about_a_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(originals()[name])
    (photograph,) = photographs_in(tmp_path).found
    image = photograph.load()
    assert (image.mode, image.size) == ("RGB", photograph.size)
    seen = torch.from_numpy(np.array(image)).permute(2, 0, 1).float()
    with Image.open(path) as opened, Image.open(path) as loaded:
        loaded.load()
        for given in (path, str(path), opened, loaded, image):
            assert torch.equal(encoded([given])[0], seen)
            assert torch.equal(encoded(given)[0], seen)
    assert torch.equal(encoded(image), seen[None])  # reading twice changes nothing


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_a_large_file_agrees_with_its_pil_image_at_every_size(suffix: str, tmp_path: Path) -> None:
    """A JPEG decoder could reduce on its way, and give other pixels."""
    path = tmp_path / f"large.{suffix}"
    picture("RGB", (3 * MAX_SIDE, 2 * MAX_SIDE)).save(path, exif=turned(8))
    with Image.open(path) as opened:
        whole = read_image(opened)
        assert whole.size == (2 * MAX_SIDE, 3 * MAX_SIDE)
        assert read_image(path).tobytes() == whole.tobytes()
        for side in (MAX_SIDE, 100):
            assert read_image(path, side).tobytes() == read_image(opened, side).tobytes()
            assert read_image(path, side).tobytes() == read_image(whole, side).tobytes()
    (photograph,) = photographs_in(tmp_path).found
    assert photograph.load().tobytes() == read_image(whole, MAX_SIDE).tobytes()


@pytest.mark.parametrize("name", originals())
def test_the_callers_image_stays_as_it_is(name: str) -> None:
    with Image.open(BytesIO(originals()[name])) as image:
        image.seek(frame := min(1, getattr(image, "n_frames", 1) - 1))
        image.load()
        before = image.mode, image.size, dict(image.info), image.tobytes()
        palette = image.getpalette("RGBA") if image.mode == "P" else None
        read_image(image)
        assert (image.mode, image.size, dict(image.info), image.tobytes()) == before
        assert (image.getpalette("RGBA") if image.mode == "P" else None) == palette
        assert image.tell() == frame
        image.convert("RGB")


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "AVIF"])
def test_a_file_gives_its_first_frame_and_an_image_the_one_it_shows(
    kind: str, tmp_path: Path
) -> None:
    if kind not in Image.SAVE:
        Image.init()
    if kind not in Image.SAVE:
        pytest.skip("this Pillow does not write it")
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "lime", "blue")]
    path = tmp_path / "frames"
    frames[0].save(path, kind, save_all=True, append_images=frames[1:])
    with Image.open(path) as image:
        for frame in (2, 0, 1):
            image.seek(frame)
            shown = np.asarray(read_image(image)).mean(axis=(0, 1))
            assert shown.argmax() == frame
            assert image.tell() == frame
            assert np.asarray(read_image(path)).mean(axis=(0, 1)).argmax() == 0


# Orientation


def corners() -> Image.Image:
    """Its upright corners, from the upper left on: red, lime, blue, white."""
    image = Image.new("RGB", (48, 32))
    for box, colour in (
        ((0, 0, 24, 16), "red"),
        ((24, 0, 48, 16), "lime"),
        ((0, 16, 24, 32), "blue"),
        ((24, 16, 48, 32), "white"),
    ):
        image.paste(colour, box)
    return image


HOW_STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG", "AVIF"])
@pytest.mark.parametrize("orientation", [*HOW_STORED, 0, 9])
def test_every_orientation_is_followed_once(orientation: int, kind: str, tmp_path: Path) -> None:
    Image.init()
    if kind not in Image.SAVE:
        pytest.skip("this Pillow does not write it")
    method = HOW_STORED.get(orientation)
    stored = corners() if method is None else corners().transpose(method)
    path = tmp_path / "turned"
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100}
    stored.save(path, kind, exif=turned(orientation), **options)
    with Image.open(path) as opened:
        upright = [read_image(path), read_image(opened), read_image(opened.copy())]
        upright += [read_image(opened.convert("L").convert("RGB"))] if kind != "TIFF" else []
    for image in upright[:3]:
        assert image.size == (48, 32)
        found = np.asarray(image)[[8, 8, 24, 24], [12, 36, 12, 36]].astype(int)
        assert abs(found - [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255] * 3]).max() < 40
        assert read_image(image).tobytes() == image.tobytes()
    assert all(image.size == (48, 32) for image in upright)


def test_a_greys_orientation_is_followed(tmp_path: Path) -> None:
    values = np.arange(6, dtype=np.uint16).reshape(2, 3) * 51
    Image.fromarray(values).save(tmp_path / "x.png", exif=turned(6))
    expected = np.rot90(values, -1).tolist()
    assert np.asarray(read_image(tmp_path / "x.png"))[..., 0].tolist() == expected


def test_an_orientation_that_was_followed_is_not_followed_again(tmp_path: Path) -> None:
    picture("RGB").save(tmp_path / "x.png", exif=turned(6))
    with Image.open(tmp_path / "x.png") as opened:
        done = ImageOps.exif_transpose(opened)
    assert read_image(done).tobytes() == read_image(tmp_path / "x.png").tobytes() == done.tobytes()
