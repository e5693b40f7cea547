"""Indexes as bytes: those of FAISS, given both ways; and damaged ones."""

import io
import pickle
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import flashmatch.adapters.faiss as ours

faiss = pytest.importorskip("faiss")

RNG = np.random.default_rng(0)
ROWS = RNG.standard_normal((700, 12)).astype(np.float32)
QUERIES = RNG.standard_normal((5, 12)).astype(np.float32)
IDS = RNG.integers(-(2**62), 2**62, 700)
KINDS = (
    "Flat",
    "IDMap,Flat",
    "IDMap2,Flat",
    "L2norm,Flat",
    "IDMap,L2norm,Flat",
    "IDMap2,L2norm,Flat",
    "L2norm,IDMap,Flat",
    "L2norm,IDMap2,Flat",
)
BOTH = (ValueError, RuntimeError)


def made(library, kind: str, rows: int = 700):
    index = library.index_factory(12, kind, library.METRIC_INNER_PRODUCT)
    if "IDMap" not in kind:
        index.add(ROWS[:rows])
    elif library is faiss and kind.startswith("L2norm,"):  # which has no add_with_ids there
        inner = library.downcast_index(index.index)
        normalised = ROWS[:rows].copy()
        library.normalize_L2(normalised)
        inner.add_with_ids(normalised, IDS[:rows])
        index.ntotal = rows
    else:
        index.add_with_ids(ROWS[:rows], IDS[:rows])
    return index


def kinds(index) -> list[str]:
    """Of what is within what; an IndexFlat is written as what it is by metric."""
    names, kept = [type(index).__name__], index
    while hasattr(index, "index"):
        kept = index  # a SWIG object does not own what it is in
        index = faiss.downcast_index(kept.index) if isinstance(kept, faiss.Index) else kept.index
        names.append(type(index).__name__)
    return names


def assert_alike(index: ours.Index, expected: ours.Index) -> None:
    assert repr(index).replace("FlatIP", "Flat") == repr(expected).replace("FlatIP", "Flat")
    for a, b in zip(index.search(QUERIES, 9), expected.search(QUERIES, 9), strict=True):
        np.testing.assert_array_equal(a, b)


def written(index: ours.Index) -> bytes:
    return ours.serialize_index(index).tobytes()


@pytest.mark.parametrize("kind", KINDS)
class TestKinds:
    def test_round_trip(self, kind: str) -> None:
        index = made(ours, kind)
        data = ours.serialize_index(index)
        assert data.dtype == np.uint8
        assert data.ndim == 1
        read = ours.deserialize_index(data)
        assert_alike(read, index)
        data[:] = 0  # nobody's any more
        read.remove_ids(IDS[:300]) if "IDMap" in kind else read.remove_ids(np.arange(300))
        assert read.ntotal == 400
        assert_alike(ours.deserialize_index(ours.serialize_index(read)), read)

    def test_faiss_reads_ours(self, kind: str) -> None:
        index = made(ours, kind)
        index.search(QUERIES, 1)  # some prepared, some only added
        index.remove_ids(IDS[:3] if "IDMap" in kind else np.arange(3))
        theirs = faiss.deserialize_index(ours.serialize_index(index))
        assert kinds(theirs) == [name.replace("Flat", "FlatIP") for name in kinds(index)]
        assert theirs.ntotal == 697
        values, labels = theirs.search(QUERIES, 9)
        np.testing.assert_array_equal(labels, index.search(QUERIES, 9)[1])
        np.testing.assert_allclose(values, index.search(QUERIES, 9)[0], rtol=1e-4)

    def test_ours_reads_faiss(self, kind: str) -> None:
        theirs = made(faiss, kind)
        index = ours.deserialize_index(faiss.serialize_index(theirs))
        assert kinds(index) == [name.replace("Flat", "FlatIP") for name in kinds(theirs)]
        labels = theirs.search(QUERIES, 9)[1]
        np.testing.assert_array_equal(index.search(QUERIES, 9)[1], labels)
        vectors = ours.vector_to_array(index._flat.codes)
        inside = theirs
        while hasattr(inside, "index"):
            inside = faiss.downcast_index(inside.index)
        np.testing.assert_array_equal(vectors, faiss.vector_to_array(inside.codes))

    def test_the_bytes_are_those_of_faiss(self, kind: str) -> None:
        """Where vectors are the same, all but the two numbers that FAISS does not read."""
        theirs = faiss.serialize_index(made(faiss, kind))
        mine = ours.serialize_index(ours.deserialize_index(theirs))
        assert (mine[16:24].tobytes(), len(mine)) == (b"flashmat", len(theirs))
        mine[16:32] = theirs[16:32]
        assert mine.tobytes() == theirs.tobytes()

    @pytest.mark.parametrize("rows", [0, 1])
    def test_few(self, kind: str, rows: int) -> None:
        index = made(ours, kind, rows)
        assert ours.deserialize_index(ours.serialize_index(index)).ntotal == rows
        assert faiss.deserialize_index(ours.serialize_index(index)).ntotal == rows
        theirs = faiss.serialize_index(made(faiss, kind, rows))
        assert ours.deserialize_index(theirs).ntotal == rows

    def test_every_change_is_noticed(self, kind: str) -> None:
        data = written(made(ours, kind, 5))
        for trial in range(4 * len(data)):
            damaged = bytearray(data)
            damaged[trial % len(data)] ^= 1 << int(RNG.integers(8))
            refused(damaged)

    def test_every_shorter_one_is_noticed(self, kind: str) -> None:
        for library in (ours, faiss):
            data = library.serialize_index(made(library, kind, 5)).tobytes()
            for size in range(len(data)):
                refused(data[:size])

    def test_damaged_bytes_of_faiss_are_refused_or_harmless(self, kind: str) -> None:
        data = faiss.serialize_index(made(faiss, kind, 5)).tobytes()
        for trial in range(len(data)):
            damaged = bytearray(data)
            damaged[trial % len(data)] ^= 1 << int(RNG.integers(8))
            try:
                index = ours.deserialize_index(bytes(damaged))
            except RuntimeError as error:
                assert isinstance(error, ValueError)  # noqa: PT017
            else:
                assert index.search(QUERIES, 3)[1].shape == (5, 3)

    def test_a_file_of_a_bank_as_bytes(self, kind: str, tmp_path: Path) -> None:
        index, path = made(ours, kind), tmp_path / "index"
        ours.write_index(index, path)
        assert_alike(ours.read_index(path), index)
        assert_alike(ours.deserialize_index(np.fromfile(path, dtype=np.uint8)), index)
        with open(path, "rb") as file:
            assert_alike(ours.read_index(ours.PyCallbackIOReader(file.read)), index)
        ours.serialize_index(index).tofile(path)
        assert_alike(ours.read_index(path, ours.IO_FLAG_MMAP), index)
        assert faiss.read_index(str(path)).ntotal == index.ntotal

    def test_to_faiss_and_back(self, kind: str) -> None:
        index = made(ours, kind)
        assert_alike(ours.from_faiss(ours.to_faiss(index)), index)


def refused(data: bytes | bytearray) -> None:
    for kind in BOTH:
        with pytest.raises(kind, match=r"^data must hold an undamaged index; "):
            ours.deserialize_index(bytes(data))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"I",
        b"hello world" * 10,
        b"IxF2",
        b"\0" * 200,
        struct.pack("<Q", 10) + b"{not json}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 1 << 60),
    ],
)
def test_bytes_of_no_index(data: bytes) -> None:
    refused(data)


def test_what_faiss_writes_and_we_do_not_read() -> None:
    flat = faiss.IndexFlatL2(12)
    nested = faiss.IndexIDMap(faiss.IndexFlatL2(12))
    unit = faiss.NormalizationTransform(12)
    for index, message in (
        (faiss.IndexHNSWFlat(12, 8), "FAISS calls this one 'IHNf'"),
        (faiss.IndexFlat(12, faiss.METRIC_Lp), r"METRIC_Lp \(4\)"),
        (faiss.IndexIDMap2(nested), "IndexFlat, or an IndexPreTransform of one; got IndexIDMap"),
        (faiss.IndexPreTransform(faiss.PCAMatrix(12, 12), flat), "one NormalizationTransform"),
        (faiss.IndexPreTransform(unit, faiss.IndexPreTransform(unit, flat)), "got IndexPre"),
    ):
        with pytest.raises(ValueError, match=message):
            ours.deserialize_index(faiss.serialize_index(index))


def test_sizes_that_lie_take_no_memory() -> None:
    data = bytearray(faiss.serialize_index(made(faiss, "Flat", 20)))
    data[8:16] = struct.pack("<q", 1 << 40)
    data[37:45] = struct.pack("<Q", 12 << 40)
    reader = ours.PyCallbackIOReader(io.BytesIO(data).read)
    tracemalloc.start()
    for call in (lambda: ours.read_index(reader), lambda: ours.deserialize_index(bytes(data))):
        with pytest.raises(RuntimeError, match="too early"):
            call()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 25


def test_flags_are_those_of_faiss() -> None:
    for name in dir(faiss):
        if name.startswith(("IO_FLAG", "METRIC_")):
            assert getattr(ours, name) == getattr(faiss, name), name


def test_errors_survive_pickling(tmp_path: Path) -> None:
    for call in (
        lambda: ours.deserialize_index(b"nothing"),
        lambda: ours.read_index(tmp_path / "nowhere"),
        lambda: ours.FileIOReader(tmp_path / "nowhere"),
    ):
        with pytest.raises(RuntimeError) as caught:
            call()
        again = pickle.loads(pickle.dumps(caught.value))
        assert (type(again), str(again)) == (type(caught.value), str(caught.value))
