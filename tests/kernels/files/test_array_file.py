"""Matrices in .npy files: mapped, in either order, and never believed."""

import io
import os
import pickle
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from flashmatch import PrototypeBank, topk
from flashmatch.kernels.files.array_file import open_array
from flashmatch.kernels.files.tensor_file import open_matrix

VALUES = np.random.default_rng(0).standard_normal((13, 5))


def written(path: Path, array: np.ndarray, version: tuple[int, int] | None = None) -> Path:
    with open(path, "wb") as file:
        np.lib.format.write_array(file, array, version)
    return path


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f2", ">f4", ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_a_matrix(tmp_path: Path, dtype: str, order: str, version: tuple[int, int]) -> None:
    array = np.array(VALUES, dtype=dtype, order=order)
    tensor = open_matrix(written(tmp_path / "x.npy", array, version))
    assert np.array_equal(tensor.numpy(), array)
    assert tensor.dtype == getattr(torch, f"float{8 * array.itemsize}")
    assert tensor.is_contiguous() == (order == "C")


def test_it_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    path = written(tmp_path / "vectors.bin", VALUES)
    assert np.array_equal(open_matrix(path).numpy(), VALUES)
    assert np.array_equal(open_matrix(str(path)).numpy(), VALUES)


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (1, 1)])
def test_few_values(tmp_path: Path, shape: tuple[int, int]) -> None:
    assert open_array(written(tmp_path / "x.npy", np.ones(shape))).shape == shape


def test_a_header_that_is_not_aligned_is_read_all_the_same(tmp_path: Path) -> None:
    """NumPy before 1.14, and other writers, pad to 16 bytes, or not at all."""
    header = repr({"descr": "<f8", "fortran_order": False, "shape": VALUES.shape}).encode() + b"\n"
    for padding in (b"", b" "):
        raw = b"\x93NUMPY\x01\x00" + len(padding + header).to_bytes(2, "little") + padding + header
        (tmp_path / "x.npy").write_bytes(raw + VALUES.tobytes())
        assert np.array_equal(open_array(tmp_path / "x.npy").numpy(), VALUES)


def test_a_file_that_may_only_be_read_is_mapped_and_stays_as_it_is(tmp_path: Path) -> None:
    path = written(tmp_path / "x.npy", VALUES)
    os.chmod(path, 0o444)
    before = path.read_bytes()
    tensor = open_array(path)
    tensor[:] = 0  # its own pages
    assert path.read_bytes() == before


def test_a_large_file_is_not_read_into_memory(tmp_path: Path) -> None:
    array = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (1 << 20, 64))
    array[-1] = 1
    del array
    before = psutil.Process().memory_info().rss
    tensor = open_array(tmp_path / "x.npy")
    assert tensor[-1].sum() == 64
    assert psutil.Process().memory_info().rss - before < 64 << 20  # of 256 MiB


class Trap:
    """What runs when somebody unpickles it."""

    def __reduce__(self) -> tuple:
        return pytest.fail, ("unpickled",)


def _raw(header: object, body: bytes = b"\0" * 64, version: bytes = b"\x01\x00") -> bytes:
    text = (header if isinstance(header, str) else repr(header)).encode()
    return b"\x93NUMPY" + version + len(text).to_bytes(2, "little") + text + body


def _header(shape: object, descr: object = "<f8", fortran_order: object = False) -> dict:
    return {"descr": descr, "fortran_order": fortran_order, "shape": shape}


def _saved(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


OBJECTS = _raw(_header((2, 2), "|O"), pickle.dumps([Trap()] * 4))
DAMAGED = {
    "empty": b"",
    "magic alone": b"\x93NUMPY",
    "cut in its header": _saved(VALUES)[:40],
    "cut in its values": _saved(VALUES)[:-1],
    "one value short": _saved(VALUES)[:-8],
    "a byte too many": _saved(VALUES) + b"\0",
    "two arrays": _saved(VALUES) * 2,
    "huge": _raw(_header((2**40, 2**20))),
    "beyond int64": _raw(_header((2**61, 2**61))),
    "a product that wraps to 64 bytes": _raw(_header((2**61 + 1, 8))),
    "negative": _raw(_header((-8, -1))),
    "no numbers": _raw(_header((True, "8"))),
    "no tuple": _raw(_header([2, 4])),
    "a vector": _saved(VALUES[0]),
    "three axes": _saved(VALUES[None]),
    "no axes": _saved(np.array(1.0)),
    "integers": _saved(VALUES.astype(np.int32)),
    "complex": _saved(VALUES.astype(np.complex64)),
    "long doubles": _saved(VALUES.astype(np.longdouble)),
    "truths": _saved(VALUES > 0),
    "words": _saved(np.array([["a", "b"]])),
    "raw bytes, as of bfloat16": _saved(np.zeros((2, 2), "V2")),
    "fields": _saved(np.zeros((2, 2), [("x", "f4")])),
    "objects": OBJECTS,
    "objects within": _raw(_header((1, 1), [("x", "|O")]), pickle.dumps(Trap())),
    "version 3": _raw(_header((2, 4)), version=b"\x03\x00"),
    "version 9": _raw(_header((2, 4)), version=b"\x09\x00"),
    "no literal": _raw("__import__('os').abort()"),
    "deep": _raw("(" * 9000),
    "no order": _raw(_header((2, 4), fortran_order=2)),
    "keys missing": _raw({"shape": (2, 4)}),
    "keys too many": _raw(_header((2, 4)) | {"more": 1}),
    "no dtype": _raw(_header((2, 4), "<q9")),
    "a header too long": b"\x93NUMPY\x02\x00" + (2**32 - 1).to_bytes(4, "little") + b"{",
}


@pytest.mark.parametrize("what", DAMAGED)
def test_damage(what: str, tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    path.write_bytes(DAMAGED[what])
    for door in (lambda: topk(VALUES, path, 1), lambda: PrototypeBank(str(path))):
        with pytest.raises(
            ValueError, match=r"^prototypes must be an \.npy file(.|\n)*; got "
        ) as e:
            door()
        assert repr(str(path)) in str(e.value)


def test_other_files(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", VALUES)
    with pytest.raises(ValueError, match=r"^prototypes must be .*; got '.*x\.npz'"):
        topk(VALUES, tmp_path / "x.npz", 1)
    with pytest.raises(FileNotFoundError, match=r"^prototypes must be an existing file; got "):
        topk(VALUES, tmp_path / "none.npy", 1)
    with pytest.raises(FileNotFoundError, match=r"^prototypes must .*; got the folder "):
        topk(VALUES, tmp_path, 1)


@pytest.mark.parametrize("seed", range(40))
def test_bytes_that_changed_are_refused_or_read(seed: int, tmp_path: Path) -> None:
    """Nothing else is raised, whatever the header says."""
    rng, raw = np.random.default_rng(seed), bytearray(_saved(VALUES.astype(np.float32)))
    for at in rng.integers(0, 128, 1 + seed % 4):
        raw[at] = rng.integers(0, 256)
    (tmp_path / "x.npy").write_bytes(raw)
    try:
        assert open_array(tmp_path / "x.npy").numel() * 2 <= len(raw)
    except ValueError as error:
        assert str(error).startswith("path must be an .npy file")  # noqa: PT017
