"""Ids as people have them, and the vectors of C++ that indexes keep them in."""

import copy
import pickle

import numpy as np
import pytest
import torch

import flashmatch.adapters.faiss as ours

faiss = pytest.importorskip("faiss")

X = np.arange(24, dtype=np.float32).reshape(6, 4) ** 2
HASHES = np.array([2**63, 2**64 - 2, 1, 2**63 + 5, 2**62, 0], dtype=np.uint64)
SIGNED = HASHES.astype(np.int64)


def made(library, ids: object = HASHES):
    index = library.IndexIDMap2(library.IndexFlatL2(4))
    index.add_with_ids(X, ids)
    return index


@pytest.mark.parametrize(
    "ids",
    [
        HASHES,
        SIGNED,
        torch.from_numpy(SIGNED),
        torch.from_numpy(HASHES),
        HASHES.tolist(),
        HASHES.astype(object),
        list(HASHES),
        tuple(torch.from_numpy(SIGNED)),
        HASHES.astype(">u8"),
        np.repeat(HASHES, 2)[::2],
    ],
)
def test_hashes_keep_their_64_bits(ids: object) -> None:
    theirs, mine = made(faiss), made(ours, ids)
    np.testing.assert_array_equal(mine.id_map, faiss.vector_to_array(theirs.id_map))
    for a, b in zip(theirs.search(X, 3), mine.search(X, 3), strict=True):
        np.testing.assert_array_equal(b, a)
    assert (mine.search(X, 1)[1][:, 0].view(np.uint64) == HASHES).all()


@pytest.mark.parametrize(
    "kind",
    ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8", torch.int32, torch.bfloat16],
)
def test_any_whole_numbers(kind: object) -> None:
    some = torch.arange(6).to(kind) if isinstance(kind, torch.dtype) else np.arange(6).astype(kind)
    assert made(ours, some).id_map.tolist() == list(range(6))


def test_hashes_are_found_again() -> None:
    theirs, mine = made(faiss), made(ours)
    np.testing.assert_array_equal(mine.reconstruct_batch(HASHES), X)
    for key in (*HASHES, *SIGNED, int(HASHES[0]), torch.tensor(int(SIGNED[1]))):
        row = (wrapped(key) == SIGNED).argmax()
        np.testing.assert_array_equal(mine.reconstruct(key), X[row])
    for select in (
        lambda library: library.IDSelectorBatch(HASHES[:3]),
        lambda library: library.IDSelectorArray(HASHES[:3]),
        lambda library: library.IDSelectorNot(library.IDSelectorBatch(HASHES[:3])),
    ):
        found = [
            index.search(X, 2, params=library.SearchParameters(sel=select(library)))[1]
            for library, index in ((faiss, theirs), (ours, mine))
        ]
        np.testing.assert_array_equal(*found)
        members = [[select(library).is_member(int(i)) for i in SIGNED] for library in (faiss, ours)]
        assert members[0] == members[1] == [select(ours).is_member(int(i)) for i in HASHES]
    assert [index.remove_ids(HASHES[:2]) for index in (theirs, mine)] == [2, 2]
    np.testing.assert_array_equal(mine.id_map, faiss.vector_to_array(theirs.id_map))


def wrapped(key: object) -> int:
    return int(key) - 2**64 if int(key) >= 2**63 else int(key)


def test_ids_added_on_merging() -> None:
    theirs, mine = made(faiss), made(ours)
    for library, index in ((faiss, theirs), (ours, mine)):
        index.merge_from(made(library, np.arange(6)), 10)
    np.testing.assert_array_equal(mine.id_map, faiss.vector_to_array(theirs.id_map))
    with pytest.raises(TypeError, match="add_id must be an int; got str"):
        mine.merge_from(made(ours), "3")
    assert mine.ntotal == 12


@pytest.mark.parametrize(
    "number", [3, np.int32(3), np.uint8(3), np.array(3), torch.tensor(3), np.int64(3)]
)
def test_integers_of_any_kind(number: object) -> None:
    flat = ours.IndexFlatL2(number)
    flat.add(X[:, :3])
    assert flat.search(X[:, :3], number)[1].shape == (6, 3)
    np.testing.assert_array_equal(flat.reconstruct(number), X[3, :3])
    assert flat.reconstruct_n(number, number).shape == (3, 3)
    assert ours.IDSelectorRange(number, 5).is_member(number)
    assert ours.knn(X, X, number)[0].shape == (6, 3)
    assert ours.deserialize_index(ours.serialize_index(flat, np.int32(0)), number).d == 3


class TestIdMap:
    def test_it_is_what_faiss_has(self) -> None:
        indexes = made(faiss), made(ours)  # SWIG's vector goes with its index
        theirs, mine = (index.id_map for index in indexes)
        assert mine.size() == theirs.size() == 6
        assert [mine.at(i) for i in range(6)] == [theirs.at(i) for i in range(6)]
        assert type(mine.at(0)) is int
        for library, vector in ((faiss, theirs), (ours, mine)):
            with pytest.raises(RuntimeError):
                vector.at(6)
            array = library.vector_to_array(vector)
            assert type(array) is np.ndarray
            np.testing.assert_array_equal(array, SIGNED, strict=True)
        with pytest.raises(IndexError, match=r"index must be below size\(\) = 6; got 6"):
            mine.at(6)
        with pytest.raises(TypeError, match="index must be an int"):
            mine.at("a")

    def test_it_is_an_array(self) -> None:
        vector = made(ours).id_map
        assert isinstance(vector, np.ndarray)
        assert (vector.size, len(vector), vector.size // 2, f"{vector.size}") == (6, 6, 3, "6")
        assert type(np.array(vector)) is type(np.asarray(vector)) is np.ndarray
        assert vector[2] == 1
        assert vector.tolist() == SIGNED.tolist()
        assert (vector[1:3].size(), vector.reshape(2, 3).size) == (2, 6)
        assert np.unique(vector).size == 6
        assert np.mean(vector) == SIGNED.mean()
        assert np.array_split(vector, 2)[0].size() == 3
        assert torch.tensor(vector).tolist() == SIGNED.tolist()
        assert ours.rev_swig_ptr(vector, 2).tolist() == SIGNED[:2].tolist()
        for twin in (pickle.loads(pickle.dumps(vector)), copy.deepcopy(vector)):
            assert twin.size() == 6
            assert (twin == vector).all()

    def test_it_is_of_the_index_as_it_was(self) -> None:
        index = made(ours)
        before = index.id_map
        index.remove_ids(HASHES[:2])
        assert (before.size(), index.id_map.size()) == (6, 4)
        with pytest.raises(ValueError, match="read-only"):
            index.id_map[0] = 3
        assert ours.IndexIDMap(ours.IndexFlatL2(4)).id_map.size() == 0


def test_codes() -> None:
    flats = []
    for library in (faiss, ours):
        flat = library.IndexFlatIP(4)
        assert flat.codes.size() == 0
        flat.add(X)
        flats.append(flat)
        assert flat.codes.size() == flat.ntotal * flat.code_size == 96
        array = library.vector_to_array(flat.codes)
        assert (type(array), array.dtype) == (np.ndarray, np.uint8)
        np.testing.assert_array_equal(array.view(np.float32).reshape(6, 4), X)
        codes = flat.sa_encode(X[:2])
        assert (codes.shape, codes.dtype, flat.sa_code_size()) == ((2, 16), np.uint8, 16)
        np.testing.assert_array_equal(flat.sa_decode(codes), X[:2], strict=True)
        out = np.empty((2, 4), dtype=np.float32)
        assert flat.sa_decode(codes, out) is out
        assert flat.sa_encode(X[:2], np.empty((2, 16), np.uint8)).tolist() == codes.tolist()
        flat.add_sa_codes(codes)
        assert flat.ntotal == 8
        one = library.IndexFlatIP(1)
        assert one.sa_encode(X[:0, :1]).shape == (0, 4)
        assert one.sa_decode(codes[:0, :4]).shape == (0, 1)
    np.testing.assert_array_equal(flats[1].codes, faiss.vector_to_array(flats[0].codes))
    with pytest.raises(RuntimeError, match="IndexIDMap"):
        flats[1].add_sa_codes(codes, np.arange(2))
    mapped = made(ours)
    mapped.add_sa_codes(codes, np.array([70, 71]))
    np.testing.assert_array_equal(mapped.reconstruct(71), X[1])
    with pytest.raises(RuntimeError, match="needs ids"):
        mapped.add_sa_codes(codes)
    tensors = flats[1].sa_encode(torch.from_numpy(X))
    assert isinstance(tensors, torch.Tensor)
    assert torch.equal(flats[1].sa_decode(tensors), torch.from_numpy(X))


def test_consistency() -> None:
    for library in (faiss, ours):
        index = made(library)
        index.check_consistency()
        index.construct_rev_map()
        index.add_with_ids(X[:1], np.array([1]))
        with pytest.raises(RuntimeError):
            index.check_consistency()
    with pytest.raises(RuntimeError, match="ids must differ; 1 repeats"):
        index.check_consistency()


def test_settings_that_scripts_make() -> None:
    for library in (faiss, ours):
        index = made(library)
        index.own_fields, index.verbose, index.metric_arg = True, True, 0.0
        assert (index.own_fields, index.metric_arg, index.is_trained) == (True, 0.0, True)
        index.own_fields = False
        with pytest.raises(AttributeError):
            index.index.own_fields  # noqa: B018


def test_translated_selectors() -> None:
    for library in (faiss, ours):
        index = made(library, np.array([5, 6, 7, -1, 5, 0]))
        for given in (index, index.id_map):
            chosen = library.IDSelectorTranslated(given, library.IDSelectorRange(5, 7))
            assert [i for i in range(6) if chosen.is_member(i)] == [0, 1, 4]
