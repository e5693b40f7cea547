"""What the retriever takes for an image, alone and in lists, and what it says to anything else."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import encoded, picture
from PIL import Image
from torch import Tensor

from flashmatch import ImageToImageRetriever


def test_arrays_give_what_their_pil_images_give() -> None:
    for mode in ("RGB", "RGBA", "LA", "I;16", "I", "F"):
        image = picture(mode)
        assert torch.equal(encoded(image), encoded(np.asarray(image)).expand(1, 3, -1, -1)), mode
    bits = picture("1")
    assert torch.equal(encoded(bits)[:, :1], encoded(np.asarray(bits)))


def test_arrays_of_any_layout() -> None:
    array = np.asarray(picture("RGB"))
    expected = encoded(array)
    read_only = array.copy()
    read_only.flags.writeable = False
    for same in (
        np.asfortranarray(array),
        array[::-1, ::-1, ::-1].copy()[::-1, ::-1, ::-1],
        np.repeat(array, 2, axis=1)[:, ::2],
        read_only,
        array.astype(np.float32),
        array.astype(">f8"),
        array.astype(np.int64),
    ):
        assert torch.equal(encoded(same), expected)
        assert torch.equal(encoded(same[None]), expected)
        assert torch.equal(encoded([same]), expected)
    grey = np.asarray(picture("I;16"))
    assert torch.equal(encoded(grey[..., None]), encoded(grey))
    assert torch.equal(encoded(grey.astype(">u2")), encoded(grey))
    assert torch.equal(encoded(np.ones((2, 2, 3), bool)), torch.full((1, 3, 2, 2), 255.0))


def test_colours_that_are_no_numbers_are_clamped() -> None:
    array = np.float32([[[np.nan, np.inf, -np.inf], [1, 2, 3]]])
    assert encoded(array)[0, :, 0].T.tolist() == [[0, 255, 0], [1, 2, 3]]


def test_lists_of_all_kinds_at_once(tmp_path: Path) -> None:
    image = picture("RGB")
    image.save(tmp_path / "x.png")
    array, tensor = np.asarray(image), torch.from_numpy(np.array(image)).permute(2, 0, 1)
    expected = encoded(image)[0]
    mixed = [image, tmp_path / "x.png", str(tmp_path / "x.png"), array, tensor, tensor.float()]
    assert all(torch.equal(row, expected) for row in encoded(mixed))
    assert all(torch.equal(row, expected) for row in encoded(tuple(mixed)))

    class Place:
        def __fspath__(self) -> bytes:
            return os.fsencode(tmp_path / "x.png")

    assert torch.equal(encoded(Place())[0], expected)
    grey = encoded([array, array[..., 0]])
    assert torch.equal(grey[1], torch.from_numpy(array[..., 0].copy()).float().expand(3, -1, -1))
    with pytest.raises(ValueError, match=r"inputs must have the same number of channels; got \[3"):
        encoded([image, torch.ones(4, 29, 37)])


def test_a_tensor_of_three_dimensions_is_one_image() -> None:
    raw = torch.randint(0, 256, (3, 8, 6), dtype=torch.uint8)
    options = {"data_preprocessor": {"mean": [100.0] * 3, "std": [50.0] * 3}}
    ready = (raw.float() - 100) / 50
    for one in (raw, raw[None], ready, ready[None]):
        assert torch.equal(encoded(one, **options), ready[None])
    retriever = ImageToImageRetriever(lambda x: x.mean((2, 3)), torch.rand(3, 3), topk=1)
    assert len(retriever.predict(ready)) == 1
    assert len(retriever(ready, mode="predict")) == 1


def test_to_rgb_turns_arrays_and_tensors_alone(tmp_path: Path) -> None:
    image = picture("RGB")
    image.save(tmp_path / "x.png")
    bgr = np.asarray(image)[..., ::-1]
    bgra = np.dstack([bgr, np.full(bgr.shape[:2], 255, np.uint8)])
    for given in (image, tmp_path / "x.png", bgr, bgra):
        assert torch.equal(encoded(given, data_preprocessor={"to_rgb": True}), encoded(image))


def test_a_preprocessor_of_the_callers_gets_images_not_paths(tmp_path: Path) -> None:
    picture("RGBA").save(tmp_path / "x.png")

    class Own(torch.nn.Module):
        def forward(self, data: dict, training: bool = False) -> dict:
            (image,) = data["inputs"]
            assert image.mode == "RGB"
            return {"inputs": torch.from_numpy(np.array(image))[None].float()}

    assert encoded(tmp_path / "x.png", data_preprocessor=Own()).shape == (1, 29, 37, 3)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (None, TypeError, r"inputs must be a path, .*, or a list of these; got NoneType"),
        ([None], TypeError, r"inputs\[0\] must be a path, .* tensor \(C, H, W\); got NoneType"),
        (5, TypeError, r"inputs must be .* got int"),
        ({3}, TypeError, r"inputs must be .* got set"),
        (iter([]), TypeError, r"inputs must be .* got list_iterator"),
        ([b"..."], TypeError, r"inputs\[0\] must be .* got bytes; PIL.Image.open\(io.BytesIO"),
        (np.zeros((4, 4, 3)).tolist(), TypeError, r"inputs\[0\] must be .* got list"),
        ([np.ones((2, 2, 3)), "no.jpg"], FileNotFoundError, r"inputs\[1\] must be .* 'no.jpg': No"),
        (Path("no.jpg"), FileNotFoundError, r"inputs must be a readable image; got 'no.jpg': No"),
        (Path(__file__), ValueError, r"inputs must be a readable image; .*cannot identify"),
        (".", ValueError, r"inputs must be a readable image; got '.': it is no regular file"),
        ("a\0b", ValueError, r"inputs must be a readable image"),
        (np.zeros((0, 5, 3), np.uint8), ValueError, r"inputs must have pixels; got .*\(0, 5, 3\)"),
        (np.zeros((2, 0)), ValueError, r"inputs must have pixels; got .*\(2, 0\)"),
        (np.zeros(5), ValueError, r"inputs must be \(H, W\) .* got shape \(5,\)"),
        (np.float64(3.0), TypeError, r"inputs must be"),
        (np.array(3.0), ValueError, r"inputs must be \(H, W\) .* got shape \(\)"),
        (np.zeros((3, 8, 9), np.uint8), ValueError, r"1 to 4 channels .* got shape \(3, 8, 9\)"),
        ([np.zeros((2, 8, 9, 3))], ValueError, r"inputs\[0\] must be \(H, W\) .* \(2, 8, 9, 3\)"),
        (np.zeros((2, 2), complex), TypeError, r"inputs must hold real numbers; .* complex128"),
        (np.array([["a.jpg"]]), TypeError, r"inputs must hold real numbers; got an array of <U5"),
        (np.zeros((2, 2, 4)), ValueError, r"uint8 or uint16 .* alpha channel; got float64"),
        (Image.new("RGB", (0, 5)), ValueError, r"inputs must have pixels; got .* size \(0, 5\)"),
        ([torch.ones(3, 0, 4)], ValueError, r"inputs\[0\] must have pixels; got .*\(3, 0, 4\)"),
        ([torch.tensor(1)], ValueError, r"inputs\[0\] must have pixels; got shape \(\)"),
        (torch.tensor(1.0), ValueError, r"inputs must be \(N, C, H, W\) .* got shape \(\)"),
        ([], ValueError, r"inputs must hold at least one image; got none"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_no_image_is_named(given: object, error: type, message: str) -> None:
    retriever = ImageToImageRetriever(lambda x: x.mean((2, 3)), torch.rand(3, 3), topk=1)
    calls: list[Callable] = [retriever.predict, retriever.extract_feat, retriever]
    if isinstance(given, type(iter([]))):
        calls = calls[:1]
    for call in calls:
        with pytest.raises(error, match=message) as raised:
            call(given)
        assert "\n" not in str(raised.value)


def test_a_closed_image_is_named(tmp_path: Path) -> None:
    picture("RGB").save(tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as closed:
        pass
    with pytest.raises(ValueError, match=r"inputs\[1\] must be a readable image; got a PIL image"):
        encoded([picture("RGB"), closed])


def test_an_encoder_that_gives_other_rows_than_images() -> None:
    def patches(images: Tensor) -> Tensor:
        return images.unfold(2, 4, 4).permute(0, 2, 1, 3, 4).flatten(0, 1).mean((2, 3))

    retriever = ImageToImageRetriever(patches, prototype=torch.rand(5, 3), topk=1)
    with pytest.raises(ValueError, match=r"image_encoder must give one row .*; got 4 for 2 inputs"):
        retriever.predict(torch.rand(2, 3, 8, 8))
