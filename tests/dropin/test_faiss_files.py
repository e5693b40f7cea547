"""Indexes written and read, our own and FAISS's."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import flashmatch
import flashmatch.adapters.faiss as ours

faiss = pytest.importorskip("faiss")

RNG = np.random.default_rng(0)
ROWS = RNG.standard_normal((1500, 12)).astype(np.float32)
QUERIES = RNG.standard_normal((5, 12)).astype(np.float32)
IDS = RNG.integers(-50, 1000, 1500)  # they repeat
KINDS = ("IndexFlatIP", "IndexFlatL2", "IDMap,Flat", "IDMap2,Flat")


def made(library, kind: str):
    if kind in KINDS[:2]:
        index = getattr(library, kind)(12)
        index.add(ROWS)
    else:
        index = library.index_factory(12, kind, library.METRIC_INNER_PRODUCT)
        index.add_with_ids(ROWS, IDS)
    return index


def assert_alike(index: ours.Index, expected: ours.Index) -> None:
    assert repr(index).replace("FlatIP", "Flat") == repr(expected).replace("FlatIP", "Flat")
    for a, b in zip(index.search(QUERIES, 9), expected.search(QUERIES, 9), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip(kind: str, tmp_path: Path) -> None:
    index, path = made(ours, kind), tmp_path / "index"
    ours.write_index(index, path)
    read = ours.read_index(str(path))
    assert_alike(read, index)
    for either in (index, read):  # a mapped index can be changed as any other
        either.remove_ids(np.arange(3, 700))
        either.add(ROWS[:3]) if kind in KINDS[:2] else either.add_with_ids(ROWS[:3], IDS[:3])
    assert_alike(read, index)
    ours.write_index(read, path)  # onto the file it is mapped from
    assert_alike(ours.read_index(path), index)
    assert [p.name for p in tmp_path.iterdir()] == ["index"]


@pytest.mark.parametrize("kind", KINDS)
def test_empty(kind: str, tmp_path: Path) -> None:
    index = made(ours, kind)
    index.reset()
    ours.write_index(index, tmp_path / "index")
    assert ours.read_index(tmp_path / "index").ntotal == 0


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_file_of_a_bank(kind: str, tmp_path: Path) -> None:
    index = made(ours, kind)
    ours.write_index(index, tmp_path / "index")
    bank = flashmatch.PrototypeBank.load(tmp_path / "index")
    labels = bank.topk(torch.from_numpy(QUERIES), 9).indices.numpy()
    labels = labels if kind in KINDS[:2] else IDS[labels]
    np.testing.assert_array_equal(labels, index.search(QUERIES, 9)[1])


@pytest.mark.parametrize("kind", [*KINDS, "Flat"])
def test_reads_the_files_of_faiss(kind: str, tmp_path: Path) -> None:
    theirs = faiss.index_factory(12, "Flat") if kind == "Flat" else made(faiss, kind)
    faiss.write_index(theirs, str(tmp_path / "theirs"))
    read = ours.read_index(tmp_path / "theirs")
    assert type(read).__name__ == type(faiss.read_index(str(tmp_path / "theirs"))).__name__
    if kind == "Flat":
        assert read.ntotal == 0
        return
    assert_alike(read, made(ours, kind))
    assert_alike(ours.from_faiss(theirs), made(ours, kind))


def test_refuses_other_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = tmp_path / "theirs"
    faiss.write_index(faiss.index_factory(12, "HNSW8"), str(theirs))
    for kind in (ValueError, RuntimeError):
        with pytest.raises(kind, match=r"fname must hold .*theirs.* FAISS calls this one 'IHN"):
            ours.read_index(theirs)
    faiss.write_index(faiss.IndexFlat(12, faiss.METRIC_L1), str(theirs))
    with pytest.raises(ValueError, match=r"METRIC_L1 \(2\)"):
        ours.read_index(theirs)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match="faiss installed"):
        ours.from_faiss(None)
    theirs.write_bytes(b"neither")
    for kind in (ValueError, RuntimeError):
        with pytest.raises(kind, match=r"^fname must hold an undamaged index; .*theirs"):
            ours.read_index(theirs)
    with pytest.raises(TypeError, match="index"):
        ours.write_index(theirs, theirs)
    bank = flashmatch.PrototypeBank(torch.ones(3, 2))
    bank.save(tmp_path / "bank")
    with pytest.raises(ValueError, match="cosine"):
        ours.read_index(tmp_path / "bank")


def test_files_that_are_not_there_or_cannot_be(tmp_path: Path) -> None:
    index, folder = made(ours, "IndexFlatL2"), tmp_path / "no" / "index"
    for path in (tmp_path / "nowhere", tmp_path):
        for kind in (FileNotFoundError, RuntimeError):
            with pytest.raises(kind, match=r"fname must be an existing file; got (the folder )?'/"):
                ours.read_index(path)
    for call in (
        lambda: ours.write_index(index, folder),
        lambda: ours.FileIOReader(folder),
        lambda: ours.FileIOWriter(folder),
    ):
        for kind in (FileNotFoundError, RuntimeError):
            with pytest.raises(kind, match=r"No such file .*index"):
                call()
    for kind in (ValueError, RuntimeError):
        with pytest.raises(kind, match="fname must be a regular file, or none yet; got"):
            ours.write_index(index, tmp_path)
    for call, remedy in ((ours.read_index, "PyCallbackIOReader"), (write, "PyCallbackIOWriter")):
        with open(tmp_path / "file", "w+b") as file, pytest.raises(TypeError, match=remedy):
            call(file)


def write(fname: object) -> None:
    ours.write_index(made(ours, "IndexFlatL2"), fname)


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_refused_or_harmless(kind: str, tmp_path: Path) -> None:
    index, path, chosen = made(ours, kind), tmp_path / "index", np.random.default_rng(0)
    ours.write_index(index, path)
    content = path.read_bytes()
    for trial in range(150):
        damaged = bytearray(content)
        damaged[chosen.integers(len(content))] ^= 1 << int(chosen.integers(8))
        path.write_bytes(damaged if trial % 5 else content[: chosen.integers(len(content))])
        with pytest.raises(ValueError, match="index"):
            ours.read_index(path)


@pytest.mark.parametrize(
    ("ids", "name"),
    [(IDS[:-1], "IndexIDMap"), (IDS.astype(float), "IndexIDMap"), (None, "IndexIDMap")],
)
def test_id_maps_that_are_none(ids, name: str, tmp_path: Path) -> None:
    bank = made(ours, "IndexFlatIP")._prepared()
    more = {} if ids is None else {"id_map": torch.from_numpy(ids)}
    bank._save(tmp_path / "index", more, {"index": name})
    with pytest.raises(ValueError, match=r"index.*no id map"):
        ours.read_index(tmp_path / "index")


@pytest.mark.parametrize("name", ["nobody's", "IndexIDMap,IndexIDMap", "IndexIDMap,"])
def test_kinds_that_are_none(name: str, tmp_path: Path) -> None:
    bank = made(ours, "IndexFlatIP")._prepared()
    more = {"id_map": torch.from_numpy(IDS)}
    bank._save(tmp_path / "index", more, {"index": name})
    with pytest.raises(ValueError, match=rf"its index is .{name}"):
        ours.read_index(tmp_path / "index")
