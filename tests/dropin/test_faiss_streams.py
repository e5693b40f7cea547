"""FAISS's readers and writers, given what FAISS's are given."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import flashmatch.adapters.faiss as ours

faiss = pytest.importorskip("faiss")

RNG = np.random.default_rng(0)
ROWS = RNG.standard_normal((700, 12)).astype(np.float32)
QUERIES = RNG.standard_normal((5, 12)).astype(np.float32)
IDS = RNG.integers(-(2**62), 2**62, 700)


@pytest.fixture
def index() -> ours.IndexIDMap2:
    return made(ours)


def made(library):
    index = library.IndexIDMap2(library.IndexFlatIP(12))
    index.add_with_ids(ROWS, IDS)
    return index


def assert_alike(index: ours.Index, expected: ours.Index) -> None:
    assert repr(index) == repr(expected)
    for a, b in zip(index.search(QUERIES, 9), expected.search(QUERIES, 9), strict=True):
        np.testing.assert_array_equal(a, b)


def pipes(library, tmp_path: Path) -> Iterator[tuple[Callable, Callable]]:
    """Pairs of a writer and a function that makes a reader of what it has written."""
    file = io.BytesIO()
    callback = library.PyCallbackIOWriter
    yield callback(file.write), lambda: library.PyCallbackIOReader(io.BytesIO(file.getvalue()).read)
    more = io.BytesIO()
    yield (
        library.BufferedIOWriter(callback(more.write, 1000), 77),
        lambda: library.BufferedIOReader(
            library.PyCallbackIOReader(io.BytesIO(more.getvalue()).read, 50), 999
        ),
    )
    vector = library.VectorIOWriter()

    def from_vector():
        reader = library.VectorIOReader()
        library.copy_array_to_vector(library.vector_to_array(vector.data), reader.data)
        return reader

    yield vector, from_vector
    other = library.VectorIOWriter()

    def from_swapped():
        reader = library.VectorIOReader()
        reader.data.swap(other.data)
        assert other.data.size() == 0
        return reader

    yield other, from_swapped
    path = str(tmp_path / library.__name__)
    yield library.FileIOWriter(path), lambda: library.FileIOReader(path)


@pytest.mark.parametrize("pipe", range(5))
@pytest.mark.parametrize("flags", [(), (0,), (ours.IO_FLAG_MMAP,), (ours.IO_FLAG_READ_ONLY,)])
def test_readers_and_writers(pipe: int, flags: tuple, tmp_path: Path, index) -> None:
    for library, mine in ((faiss, made(faiss)), (ours, index)):
        writer, reader = list(pipes(library, tmp_path))[pipe]
        library.write_index(mine, writer, *flags)
        del writer  # FAISS's buffer is written only now
        read = library.read_index(reader(), *flags)
        assert type(read).__name__ == "IndexIDMap2"
        np.testing.assert_array_equal(read.search(QUERIES, 3)[1], index.search(QUERIES, 3)[1])


def test_one_stream_may_hold_several(index) -> None:
    flat, stream = ours.IndexFlatL2(12), io.BytesIO()
    flat.add(ROWS)
    for one in (index, flat):
        ours.write_index(one, ours.BufferedIOWriter(ours.PyCallbackIOWriter(stream.write)))
    stream.write(b"and more")
    stream.seek(0)
    for one in (index, flat):
        reader = ours.BufferedIOReader(ours.PyCallbackIOReader(stream.read))
        assert_alike(ours.read_index(reader), one)
    assert stream.read() == b"and more"


def test_callbacks_are_given_what_they_ask_for(index) -> None:
    sizes, data = [], ours.serialize_index(index).tobytes()
    ours.write_index(index, ours.PyCallbackIOWriter(lambda part: sizes.append(len(part)), 1000))
    assert max(sizes) == 1000
    assert sum(sizes) == len(data)
    asked, stream = [], io.BytesIO(data)

    def read(size: int) -> bytes:
        asked.append(size)
        return stream.read(max(1, size // 3))  # as sockets do

    assert_alike(ours.read_index(ours.PyCallbackIOReader(read, 500)), index)
    assert max(asked) == 500


def raises(*_: object) -> bytes:
    raise KeyError("mine")


@pytest.mark.parametrize(
    ("callback", "error", "message"),
    [
        (raises, KeyError, "mine"),
        (lambda n: "a" * n, RuntimeError, "callback must return bytes; got str"),
        (lambda n: None, RuntimeError, "callback must return bytes; got NoneType"),
        (lambda n: b"a" * (n + 1), RuntimeError, "callback must return at most 4 bytes; got 5"),
        (lambda n: b"", RuntimeError, "ends 4 bytes too early"),
    ],
)
def test_callbacks_that_fail(callback: Callable, error: type[Exception], message: str) -> None:
    for library in (faiss, ours):
        with pytest.raises(error, match=message if library is ours else None):
            library.read_index(library.PyCallbackIOReader(callback))


def test_what_is_refused(index, tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="mine"):
        ours.write_index(index, ours.PyCallbackIOWriter(raises))
    for call, message in (
        (lambda: ours.PyCallbackIOReader(3), "callback must be callable; got int"),
        (lambda: ours.PyCallbackIOWriter("a"), "callback must be callable; got str"),
        (lambda: ours.BufferedIOReader(io.BytesIO()), "reader must be an IOReader; got BytesIO"),
        (lambda: ours.BufferedIOWriter(io.BytesIO()), "writer must be an IOWriter; got BytesIO"),
        (lambda: ours.read_index(tmp_path / "a", "2"), "io_flags must be an int; got str"),
        (lambda: ours.write_index(index, tmp_path / "a", None), "io_flags must be an int"),
        (lambda: ours.serialize_index(3), "index must be an index of this module; got int"),
        (lambda: ours.deserialize_index(index), "data must be .* uint8 array.* got IndexIDMap2"),
        (lambda: ours.deserialize_index(np.zeros(9)), "data must be .* uint8 .* got float64"),
        (lambda: ours.copy_array_to_vector(np.zeros(3), ours.VectorIOReader().data), "a must be"),
        (lambda: ours.copy_array_to_vector(np.zeros(3, np.uint8), []), "v must be a UInt8Vector"),
        (lambda: ours.from_faiss(index), "index must be an index of FAISS's own; got IndexIDMap2"),
    ):
        with pytest.raises(TypeError, match=message):
            call()
    assert not (tmp_path / "a").exists()
