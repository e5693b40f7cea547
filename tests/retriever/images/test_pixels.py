"""The pixels of an image: greys spread over 8 bits, transparency on white, colours in RGB."""

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import encoded, picture
from PIL import Image

from flashmatch.retriever.images import read_image

NODATA = 42113


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image)


def grey(values: object) -> list:
    """What becomes of the PIL image of an array, in its red channel."""
    return pixels(read_image(Image.fromarray(np.asarray(values))))[..., 0].tolist()


def reread(image: Image.Image, kind: str, **options) -> Image.Image:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return Image.open(BytesIO(buffer.getvalue()))


# Greys of more than 8 bits


@pytest.mark.parametrize("dtype", [np.uint16, ">u2", np.int32, np.float32])
def test_greys_are_spread_and_not_clipped(dtype: object) -> None:
    values = np.array([[1000, 2000], [3000, 6100]]).astype(dtype)
    assert grey(values) == [[0, 50], [100, 255]]
    assert encoded(values)[0, 0].tolist() == [[0, 50], [100, 255]]


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L", "I", "F"])
def test_every_mode_of_them(mode: str) -> None:
    image = Image.new("I;16B" if mode == "I;16B" else mode, (3, 1))
    for x, value in enumerate((100, 300, 1120)):
        image.putpixel((x, 0), value)
    assert pixels(read_image(image))[0].tolist() == [[0] * 3, [50] * 3, [255] * 3]


def test_eight_bits_in_sixteen_are_those_eight_bits() -> None:
    eight = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for wide in (eight * np.uint16(257), eight.astype(np.float64) / 255, eight.astype(np.int32)):
        assert grey(wide) == eight.tolist()


@pytest.mark.parametrize("value", [0, 7, 65535])
@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_one_value_has_no_range(value: int, dtype: type) -> None:
    assert grey(np.full((2, 3), value, dtype)) == [[0] * 3] * 2


def test_what_is_no_number_takes_no_part() -> None:
    nan, inf = np.nan, np.inf
    assert grey(np.float32([[nan, -inf, 1, 2, 3.55, inf]])) == [[0, 0, 0, 100, 255, 255]]
    assert grey(np.float32([[nan, inf]])) == [[0, 0]]
    assert encoded(np.array([[nan, -inf, 1, 2, 3.55, inf]]))[0, 0].tolist() == [
        [0, 0, 0, 100, 255, 255]
    ]


@pytest.mark.parametrize("size", [1e308, 1e-308, 1e-322])
def test_ranges_at_the_ends_of_float64(size: float) -> None:
    assert encoded(np.array([[-size, 0, size]]))[0, 0].tolist() in (
        [[0, 128, 255]],
        [[0, 127, 255]],
    )


@pytest.mark.parametrize(
    ("mode", "tag", "value"),
    [
        ("F", "-9999", -9999),
        ("F", "-3.4028234663852886e+38", -3.4028234663852886e38),
        ("F", "nan", np.nan),
        ("I;16", "65535", 65535),
        ("I", "-2147483648", -(2**31)),
    ],
)
def test_no_data_of_a_tiff_takes_no_part(mode: str, tag: str, value: float, tmp_path: Path) -> None:
    dtype = {"F": np.float32, "I;16": np.uint16, "I": np.int32}[mode]
    with np.errstate(invalid="ignore"):
        values = np.array([[value, 10, 20, 35.5 if mode == "F" else 61]]).astype(dtype)
    image = Image.fromarray(values)
    assert image.mode == mode
    image.save(tmp_path / "x.tif", tiffinfo={NODATA: tag})
    shown = pixels(read_image(tmp_path / "x.tif"))[0, :, 0].tolist()
    assert shown == [255 if value > 100 else 0, 0, *([100, 255] if mode == "F" else [50, 255])]


@pytest.mark.parametrize("tag", ["", "none", "1e999", "1,5"])
def test_a_no_data_that_is_none_changes_nothing(tag: str, tmp_path: Path) -> None:
    Image.fromarray(np.float32([[1, 2, 6.1]])).save(tmp_path / "x.tif", tiffinfo={NODATA: tag})
    assert pixels(read_image(tmp_path / "x.tif"))[0, :, 0].tolist() == [0, 50, 255]


def test_masked_values_take_no_part() -> None:
    values = np.ma.masked_array([[-1e9, 1.0, 2.0, 6.1]], mask=[[True, False, False, False]])
    assert encoded(values)[0, 0].tolist() == [[0, 0, 50, 255]]


def test_sixteen_bits_a_colour_lose_their_lower_byte(tmp_path: Path) -> None:
    """As Pillow reads them; an array of such a file agrees with the file."""
    values = np.array([[[0, 255, 256], [65535, 4660, 32768]]], np.uint16)
    (tmp_path / "x.png").write_bytes(png(16, 2, [values.astype(">u2").tobytes()], size=(2, 1)))
    expected = [[0, 0, 1], [255, 18, 128]]
    assert pixels(read_image(tmp_path / "x.png"))[0].tolist() == expected
    for array in (values, values.astype(">u2"), values.astype("<u2")):
        assert encoded(array)[0, :, 0].T.tolist() == expected


def test_a_large_grey_is_spread_as_a_whole() -> None:
    """It is done in blocks, of which neither knows the least and the greatest of all."""
    values = np.arange(1000 * 1500, dtype=np.int32).reshape(1000, 1500)
    expected = (values * (255 / values.max())).round().astype(np.uint8)
    assert np.array_equal(np.asarray(read_image(Image.fromarray(values)))[..., 0], expected)


# Transparency


def png(depth: int, colour: int, rows: list[bytes], size: tuple[int, int], extra=b"") -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"".join(
        (b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), extra and chunk(b"tRNS", extra))
    ) + b"".join((chunk(b"IDAT", data), chunk(b"IEND", b"")))


WHITE, BLACK, RED = [255] * 3, [0] * 3, [255, 0, 0]


def clear_and_opaque(mode: str) -> Image.Image:
    """A transparent pixel of no colour, and one that is black, or red where there are colours."""
    rgba = Image.new("RGBA", (2, 1), (0, 255, 0, 0))
    rgba.putpixel((1, 0), (255, 0, 0, 255))
    if mode in ("LA", "La"):
        grey = Image.fromarray(np.array([[[90, 0], [0, 255]]], np.uint8))
        return grey.convert(mode)
    if mode == "PA":
        image = Image.new("PA", (2, 1))
        image.putpalette([0, 255, 0, 255, 0, 0])
        image.putpixel((0, 0), (0, 0))
        image.putpixel((1, 0), (1, 255))
        return image
    return rgba.convert(mode)


@pytest.mark.parametrize("mode", ["RGBA", "RGBa", "LA", "La", "PA"])
def test_alpha_is_on_white(mode: str) -> None:
    opaque = BLACK if mode in ("LA", "La") else RED
    assert pixels(read_image(clear_and_opaque(mode)))[0].tolist() == [WHITE, opaque]


def test_half_transparent_is_half_white() -> None:
    image = Image.new("RGBA", (1, 1), (0, 100, 200, 128))
    assert abs(pixels(read_image(image)).astype(int) - [[[127, 177, 227]]]).max() <= 1
    assert torch.equal(encoded(image), encoded(np.asarray(image)))


@pytest.mark.parametrize(
    ("array", "colour", "expected"),
    [
        (np.array([[0, 90]], np.uint8), 90, [BLACK, WHITE]),
        (np.array([[True, False]]), 0, [WHITE, WHITE]),
        (np.array([[False, True]]), 255, [BLACK, WHITE]),
        (np.array([[500, 1000, 9000]], np.uint16), 9000, [BLACK, WHITE, WHITE]),
        (np.array([[[1, 2, 3], [255, 0, 0]]], np.uint8), (1, 2, 3), [WHITE, RED]),
    ],
    ids=["L", "1", "1 inverted", "I;16", "RGB"],
)
def test_a_transparent_colour_is_white(array: np.ndarray, colour: object, expected: list) -> None:
    image = reread(Image.fromarray(array), "PNG", transparency=colour)
    assert pixels(read_image(image))[0].tolist() == expected


@pytest.mark.parametrize("kind", ["GIF", "PNG"])
@pytest.mark.parametrize("transparency", [0, b"\0\xff"])
def test_a_transparent_entry_of_a_palette_is_white(kind: str, transparency: object) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([0, 255, 0, 255, 0, 0])
    image.putpixel((1, 0), 1)
    if kind == "GIF":
        transparency = 0
    image = reread(image, kind, transparency=transparency)
    assert pixels(read_image(image))[0].tolist() == [WHITE, RED]


# Other colours


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB", "HSV", "P", "RGBX", "L", "1"])
def test_colours_become_rgb(mode: str) -> None:
    image = picture(mode)
    shown = read_image(image)
    assert shown.mode == "RGB"
    assert shown.tobytes() == image.convert("RGB").tobytes()
    if mode not in ("P", "1", "L"):
        assert abs(pixels(shown).astype(int) - pixels(picture("RGB"))).mean() < 25


def test_an_inverted_cmyk_jpeg_is_not_inverted(tmp_path: Path) -> None:
    """As Adobe writes them, and Pillow after it."""
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "x.jpg", quality=100)
    assert abs(pixels(read_image(tmp_path / "x.jpg")).astype(int) - RED).max() < 10
