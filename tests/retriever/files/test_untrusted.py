"""Files from elsewhere: what they would take is known before; errors are ValueErrors."""

import random
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from flashmatch import PrototypeBank
from flashmatch.retriever.files.prototype_file import dump_prototypes, load_prototypes
from flashmatch.retriever.model.weights import load_weights

BUFFER = b"\x80\x02cbuiltins\nbytearray\n\x8a\x07" + (1 << 50).to_bytes(7, "little") + b"\x85R."
"""2^50 bytes of zeros, of which nobody has so many."""
OPCODES = b"}]()q\x00\x01X.cRtbuhKMJIFUab\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file.pt"


def refused(path: Path) -> str:
    with pytest.raises(ValueError, match=path.name) as raised:
        load_prototypes(path)
    with pytest.raises(ValueError, match=path.name):
        load_weights(nn.Sequential(nn.Linear(2, 2)), "0", path, "pretrained")
    return str(raised.value)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04", b"\x80\x02.", bytes(64)])
def test_what_is_no_checkpoint(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    assert "cannot be read as plain tensors" in refused(path)


def test_random_bytes_and_random_pickles(path: Path) -> None:
    chosen = random.Random(0)
    for _ in range(300):
        length = chosen.randint(1, 40)
        some = bytes(chosen.choice(OPCODES) for _ in range(length))
        for content in (chosen.randbytes(length), b"\x80\x02" + some):
            path.write_bytes(content)
            refused(path)


def test_damaged_checkpoints(path: Path) -> None:
    chosen = random.Random(0)
    torch.save({"a": torch.arange(40.0).view(20, 2), "b": torch.ones(3)}, path)
    whole = path.read_bytes()
    for _ in range(200):
        damaged = bytearray(whole)
        damaged[chosen.randrange(len(whole))] ^= 1 << chosen.randrange(8)
        path.write_bytes(
            damaged if chosen.random() < 0.7 else whole[: chosen.randrange(len(whole))]
        )
        try:
            load_prototypes(path)
        except ValueError as error:
            assert path.name in str(error)  # noqa: PT017


def compressed(source: Path, path: Path) -> None:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for record in old.infolist():
            new.writestr(record.filename, old.read(record))


def test_a_compressed_archive_is_refused_before_it_is_unpacked(path: Path, tmp_path: Path) -> None:
    torch.save(torch.zeros(1 << 20, 8), tmp_path / "zeros.pt")
    compressed(tmp_path / "zeros.pt", path)
    assert path.stat().st_size < 1 << 20
    assert "would unpack to 33" in refused(path)


@pytest.mark.parametrize("inside", [False, True])
def test_a_view_of_2_to_the_40_rows(inside: bool, path: Path) -> None:
    view = torch.ones(1, 64).expand(1 << 40, 64)
    torch.save({"prototypes": view} if inside else view, path)
    assert path.stat().st_size < 10_000
    assert "(1099511627776, 64) repeats 256 bytes" in refused(path)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_buffer_made_of_nothing(legacy: bool, path: Path) -> None:
    path.write_bytes(BUFFER)
    if not legacy:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("file/data.pkl", BUFFER)
            archive.writestr("file/version", "3\n")
    assert "it makes buffers" in refused(path)


def test_an_archive_behind_what_is_none(path: Path, tmp_path: Path) -> None:
    """Python would find the archive at the end, torch looks at the beginning."""
    torch.save(torch.ones(2, 2), tmp_path / "good.pt")
    path.write_bytes(BUFFER + (tmp_path / "good.pt").read_bytes())
    assert zipfile.is_zipfile(path)
    assert "it makes buffers" in refused(path)


def test_a_tensor_larger_than_its_file(path: Path) -> None:
    """torch.Tensor(n, m) is one of what it lets a pickle call."""
    pickled = b"\x80\x02ctorch\nTensor\nM\xe8\x03M\xe8\x03\x86R."
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("file/data.pkl", pickled)
        archive.writestr("file/version", "3\n")
        archive.writestr("file/byteorder", "little")
    assert "a tensor of 4000000 bytes" in refused(path)


@pytest.mark.parametrize("is_archive", [False, True])
def test_both_of_torchs_formats_are_read(is_archive: bool, path: Path) -> None:
    vectors = torch.randn(7, 3)
    torch.save({"prototypes": vectors}, path, _use_new_zipfile_serialization=is_archive)
    assert torch.equal(load_prototypes(path)[0], vectors)


def test_a_small_view_is_laid_out(path: Path) -> None:
    torch.save(torch.ones(1, 4).expand(10, 4), path)
    assert torch.equal(load_prototypes(path)[0], torch.ones(10, 4))


@pytest.mark.parametrize(
    "vectors",
    [
        torch.sparse_coo_tensor([[0], [0]], [1.0], size=(1 << 40, 4)),
        torch.quantize_per_tensor(torch.ones(3, 4), 0.1, 0, torch.qint8),
        torch.ones(3, 4, device="meta"),
        torch.ones(3, 4, dtype=torch.complex64),
    ],
    ids=["sparse", "quantized", "meta", "complex"],
)
def test_tensors_that_are_no_matrix_of_numbers(vectors: torch.Tensor, path: Path) -> None:
    torch.save({"prototypes": vectors}, path)
    from flashmatch import ImageToImageRetriever

    with pytest.raises(ValueError, match=r"prototype|plain tensors"):
        ImageToImageRetriever(nn.Identity(), str(path)).prepare_prototype()
    with pytest.raises(ValueError, match=r"pretrained"):
        load_weights(nn.Sequential(nn.Linear(4, 3, bias=False)), "0", path, "pretrained")


def test_lack_of_memory_and_of_permission_are_no_damage(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(torch.ones(2, 2), path)

    def load(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(MemoryError):
        load_prototypes(path)


def test_a_banks_file_as_a_gallery_keeps_its_ids(tmp_path: Path) -> None:
    bank = PrototypeBank(torch.eye(5), ids=[9, 7, 5, 3, 1])
    bank.save(tmp_path / "bank.safetensors")
    vectors, ids = load_prototypes(tmp_path / "bank.safetensors")
    assert torch.equal(vectors, torch.eye(5))
    assert ids.tolist() == [9, 7, 5, 3, 1]
    save_file({"prototypes": torch.eye(5), "ids": torch.arange(5) + 2}, tmp_path / "a.safetensors")
    assert load_prototypes(tmp_path / "a.safetensors")[1] is None  # whatever those are


def test_a_gallery_that_changed_on_disk_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "gallery.safetensors"
    dump_prototypes(path, torch.randn(500, 16), torch.arange(500))
    content = bytearray(path.read_bytes())
    vectors, ids = load_prototypes(path)
    assert (len(vectors), ids.tolist()) == (500, list(range(500)))
    del vectors, ids
    at = content.find(struct.pack("<q", 300))
    for position in (len(content) // 2, at, 40):
        damaged = bytearray(content)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        expected = f"path must be an undamaged file; got '{path}'|path must be a safetensors file"
        with pytest.raises(ValueError, match=expected):
            load_prototypes(path)
