"""Any array at the door: the answer of torch to the bit, in the caller's kind, without a copy."""

import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from flashmatch import Matches, PrototypeBank, topk, verify
from flashmatch.kernels.arrays.memory import tensor_of
from flashmatch.kernels.arrays.returned import in_kind_of
from flashmatch.kernels.arrays.taken import as_prototypes, as_tensor, as_vectors

pytestmark = pytest.mark.filterwarnings("error")

Q, P = torch.randn(3, 8).numpy(), torch.randn(50, 8).numpy()
K = 4


def expected(queries: np.ndarray = Q, prototypes: np.ndarray = P, **options: Any) -> Matches:
    return topk(torch.tensor(queries), torch.tensor(prototypes), K, **options)


def assert_found(found: Matches, wanted: Matches, kind: type = np.ndarray) -> None:
    assert type(found) is Matches
    for got, right in zip(found, wanted, strict=True):
        assert isinstance(got, kind)
        assert np.array_equal(np.asarray(got), right.numpy())


def frozen(array: np.ndarray) -> np.ndarray:
    copy = array.copy()
    copy.flags.writeable = False
    return copy


class Dlpack:
    """What has nothing but the protocol, as of before 2023: no ``max_version``."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __dlpack__(self, stream: int | None = None) -> object:
        return self.array.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()


class NumpyOnly:
    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __array__(self, dtype: object = None, copy: bool | None = None) -> np.ndarray:
        return self.array


class Interface:
    def __init__(self, array: np.ndarray) -> None:
        self.__array_interface__ = array.__array_interface__
        self.array = array


class OnGpu:
    def __init__(self, array: np.ndarray) -> None:
        self.__cuda_array_interface__ = array.__array_interface__


class DlpackOnGpu(Dlpack):
    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0  # kDLCUDA


class Space(Dlpack):
    """An array of a library of its own, whose functions stand in a namespace."""

    dtypes = ("bool", "int64", "float32", "float64")

    def __array_namespace__(self, api_version: str | None = None) -> SimpleNamespace:
        info = SimpleNamespace(dtypes=lambda: dict.fromkeys(self.dtypes))
        return SimpleNamespace(
            from_dlpack=lambda x: type(self)(torch.from_dlpack(x).numpy()),
            __array_namespace_info__=lambda: info,
        )


class NarrowSpace(Space):
    """As JAX without x64."""

    dtypes = ("bool", "int32", "float32")


# How the same numbers may come, and whether their memory is shared.
KINDS: dict[str, tuple[Callable[[np.ndarray], Any], bool]] = {
    "numpy": (np.asarray, True),
    "read-only": (frozen, False),  # of its own copy, which it shares
    "fortran": (np.asfortranarray, False),
    "big-endian": (lambda x: x.astype(x.dtype.newbyteorder(">")), False),
    "backwards": (lambda x: x[::-1].copy()[::-1], False),
    "backwards across": (lambda x: x[:, ::-1].copy()[:, ::-1], False),
    "strided": (lambda x: np.repeat(x, 2, 1)[:, ::2], False),
    "masked, but nothing": (np.ma.array, False),
    "objects": (lambda x: np.array([*x, None], dtype=object)[:-1], False),
    "dlpack": (Dlpack, True),
    "__array_interface__": (Interface, True),
    "__array__": (NumpyOnly, True),
    "list of arrays": (list, False),
    "tuple of lists and arrays": (lambda x: (x[0].tolist(), *x[1:].astype(np.float64)), False),
    "list of lists": (np.ndarray.tolist, False),
    "tuple of tuples": (lambda x: tuple(map(tuple, x.tolist())), False),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_topk_takes_it_and_answers_in_numpy(kind: str, metric: str) -> None:
    make, _ = KINDS[kind]
    wanted = expected(metric=metric)
    assert_found(topk(make(Q), make(P), K, metric=metric), wanted)
    assert_found(topk(make(Q), torch.tensor(P), K, metric=metric), wanted)
    assert_found(topk(torch.tensor(Q), make(P), K, metric=metric), wanted, Tensor)
    assert_found(topk(make(Q), make(P), 0), none())


def none() -> Matches:
    return topk(torch.tensor(Q), torch.tensor(P), 0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_bank_takes_it(kind: str) -> None:
    make, _ = KINDS[kind]
    bank = PrototypeBank(make(P[:40]))
    added = bank.add(make(P[40:]))
    assert isinstance(added, np.ndarray)
    assert added.tolist() == list(range(40, 50))
    assert isinstance(bank.ids, Tensor)
    assert_found(bank.topk(make(Q), K), expected())
    assert_found(bank.topk(make(Q), 0), none())
    assert_found(bank.topk(torch.tensor(Q), K), expected(), Tensor)
    assert isinstance(bank.add(torch.tensor(P[:1])), Tensor)
    assert isinstance(bank.add([torch.tensor(P[:1])]), Tensor)


@pytest.mark.parametrize("kind", KINDS)
def test_verify_takes_it(kind: str) -> None:
    make, _ = KINDS[kind]
    found = topk(make(Q), make(P), K)
    assert verify(make(Q), make(P), found)
    wrong = found.scores, found.indices[:, ::-1]
    assert not verify(make(Q), make(P), wrong)


@pytest.mark.parametrize("kind", [kind for kind, (_, is_shared) in KINDS.items() if is_shared])
def test_memory_is_shared(kind: str) -> None:
    for take in (lambda x: as_vectors("queries", x), as_prototypes):
        assert take(KINDS[kind][0](P)).data_ptr() == P.ctypes.data


def test_memory_of_views_is_shared_and_of_read_only_arrays_too() -> None:
    for view in (P[3:], P[::2], P[:, 2:5], P.T, np.broadcast_to(P[0], (4, 8)), frozen(P)):
        tensor = as_vectors("queries", view)
        assert tensor.data_ptr() == view.ctypes.data
        assert np.array_equal(tensor.numpy(), view)


def test_a_read_only_array_lives_as_long_as_its_tensor() -> None:
    tensor = tensor_of(frozen(np.arange(1 << 16).astype(np.float64)))
    assert int(tensor.sum()) == (1 << 16) * ((1 << 16) - 1) // 2


def test_a_bank_of_an_array_refers_to_it() -> None:
    prototypes = P.copy()
    bank = PrototypeBank(prototypes, screen="float")
    assert bank._state.collection.rows.chunks[0].data_ptr() == prototypes.ctypes.data


def test_unaligned_memory_is_copied() -> None:
    raw = np.zeros(P.nbytes + 1, np.uint8)
    unaligned = raw[1:].view(np.float32).reshape(P.shape)
    unaligned[:] = P
    fields = np.zeros(50, [("vector", np.float32, 8), ("tag", np.uint8)])
    fields["vector"] = P
    for odd in (unaligned, fields["vector"]):
        assert_found(topk(Q, odd, K), expected())


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_dtypes(dtype: type) -> None:
    queries, prototypes = Q.astype(dtype), P.astype(dtype)
    assert_found(topk(queries, prototypes, K), expected(queries, prototypes))


def test_bfloat16_of_ml_dtypes() -> None:
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    queries, prototypes = Q.astype(bfloat16), P.astype(bfloat16)
    wanted = topk(torch.tensor(Q).bfloat16(), torch.tensor(P).bfloat16(), K)
    assert as_vectors("queries", prototypes).data_ptr() == prototypes.ctypes.data
    for order in (np.asarray, lambda x: x[::-1].copy()[::-1], frozen):
        assert_found(topk(order(queries), order(prototypes), K), wanted)


def test_python_numbers_are_float64() -> None:
    assert as_vectors("queries", [[1, 2], [3, 4]]).dtype == torch.float64
    assert as_vectors("queries", [[0.1]]).item() == 0.1
    found = topk([[1, 2]], [[1, 2], [2, 1], [1.5, 0.5]], 2, metric="dot")
    assert found.scores.dtype == np.float32
    assert found.indices.tolist() == [[0, 1]]


def test_a_sequence_of_matrices_is_one_of_chunks() -> None:
    wanted = expected()
    for chunks in (
        [P[:20], P[20:]],
        (torch.tensor(P[:20]), P[20:]),
        [P[:20].tolist(), list(P[20:])],
        [Dlpack(P[:20]), torch.tensor(P[20:]).double()],
    ):
        assert len(as_prototypes(chunks)) == 2
        assert_found(topk(Q, chunks, K), wanted)
        assert_found(PrototypeBank(chunks).topk(Q, K), wanted)
    assert len(as_prototypes([P])) == 1


def test_a_sequence_of_tensors_is_torchs() -> None:
    rows = [torch.tensor(row, requires_grad=True) for row in Q]
    found = topk(rows, P, K)
    assert_found(Matches(found.scores.detach(), found.indices), expected(), Tensor)
    found.scores.sum().backward()
    assert all(row.grad is not None for row in rows)


def test_gradients_end_in_numpy() -> None:
    prototypes = torch.tensor(P, requires_grad=True)
    assert_found(topk(Q, prototypes, K), expected())


MASKS: dict[str, Callable[[np.ndarray], Any]] = {
    "numpy": np.asarray,
    "read-only": frozen,
    "torch": torch.tensor,
    "list": np.ndarray.tolist,
    "dlpack": Dlpack,
    "__array__": NumpyOnly,
}


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("shape", [(50,), (3, 50)])
def test_masks(kind: str, shape: tuple[int, ...]) -> None:
    allowed = np.random.default_rng(0).random(shape) < 0.3
    wanted, mask = expected(mask=torch.tensor(allowed)), MASKS[kind](allowed)
    bank = PrototypeBank(P)
    for queries, type_ in ((Q, np.ndarray), (torch.tensor(Q), Tensor)):
        for search in (lambda q, **m: topk(q, P, K, **m), lambda q, **m: bank.topk(q, K, **m)):
            found = search(queries, mask=mask)
            assert_found(found, wanted, type_)
        assert verify(queries, P, found, mask=mask)


def test_answers_come_in_the_namespace_of_the_queries() -> None:
    found = topk(Space(Q), P, K)
    assert isinstance(found.scores, Space)
    assert_found(Matches(found.scores.array, found.indices.array), expected())
    found = PrototypeBank(P).topk([Space(row) for row in Q], K)
    assert_found(Matches(found.scores.array, found.indices.array), expected())
    assert verify(Space(Q), Space(P), found)


def test_a_namespace_without_int64_gets_int32() -> None:
    found = topk(NarrowSpace(Q), P, K)
    assert found.indices.array.dtype == np.int32
    assert np.array_equal(found.indices.array, expected().indices.numpy())
    assert verify(NarrowSpace(Q), P, found)
    halved = in_kind_of(NarrowSpace(Q), torch.tensor([0.5]).double())
    assert halved.array.dtype == np.float32
    with pytest.raises(ValueError, match=r"^queries must .* int64.*; got the index 2147483648$"):
        in_kind_of(NarrowSpace(Q), torch.tensor([2**31]))


def test_tensors_pass_as_they_are() -> None:
    class Mine(Tensor):
        pass

    queries, prototypes = torch.tensor(Q), torch.tensor(P)
    chunks = [prototypes, prototypes]
    mine = queries.as_subclass(Mine)
    assert as_vectors("queries", queries) is queries
    assert as_vectors("queries", mine) is mine
    assert as_tensor("mask", mine) is mine
    assert as_prototypes(prototypes) is prototypes
    assert as_prototypes(chunks) is chunks
    found = topk(queries, chunks, K)
    assert in_kind_of(queries, found) is found


def test_a_compiled_search_takes_tensors_without_a_break() -> None:
    search = torch.compile(
        lambda q, p, m: topk(q, [p, p], K, mask=m), fullgraph=True, backend="eager"
    )
    queries, prototypes = torch.tensor(Q), torch.tensor(P)
    mask = torch.arange(100) % 3 > 0
    wanted = topk(queries, [prototypes, prototypes], K, mask=mask)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "dynamo_pgo")  # which says so where caches are off
        assert_found(search(queries, prototypes, mask), wanted, Tensor)


@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
@pytest.mark.parametrize("kind", [str, Path])
def test_prototypes_of_a_path(tmp_path: Path, suffix: str, kind: type) -> None:
    path = tmp_path / f"vectors{suffix}"
    if suffix == ".npy":
        np.save(path, P)
    else:
        from safetensors.numpy import save_file

        save_file({"vectors": P}, path)
    assert_found(topk(Q, kind(path), K), expected())
    assert_found(PrototypeBank(kind(path)).topk(Q, K), expected())
    bank = PrototypeBank(P[:0])
    assert bank.add(kind(path)).tolist() == list(range(50))
    assert verify(Q, kind(path), bank.topk(Q, K))


class Unreadable:
    def __array__(self, dtype: object = None, copy: bool | None = None) -> np.ndarray:
        raise RuntimeError("it was closed")


WRONG: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "a number": lambda: 1.5,
    "a dict": lambda: {"a": P},
    "a set": lambda: {1.0, 2.0},
    "a generator": lambda: (row for row in P),
    "bytes": lambda: P.tobytes(),
    "a buffer": lambda: memoryview(P),
    "a class": lambda: np.ndarray,
    "a row": lambda: P[0],
    "a row of numbers": lambda: [1.0, 2.0],
    "a numpy number": lambda: np.float32(1),
    "an array without axes": lambda: np.array(1.0),
    "an array of three axes": lambda: P[None],
    "no rows": lambda: [],
    "rows without channels": lambda: np.zeros((3, 0)),
    "ragged rows": lambda: [[1.0, 2.0], [3.0]],
    "ragged arrays": lambda: [np.zeros(2), np.zeros(3)],
    "ragged tensors": lambda: [torch.zeros(2), torch.zeros(3)],
    "a row that is none": lambda: [[1.0, 2.0], None],
    "an array that is none": lambda: [np.zeros(2), None],
    "rows of words": lambda: [["a", "b"], ["c", "d"]],
    "words": lambda: ["a", "b"],
    "rows with a word": lambda: [[1.0, "b"]],
    "rows with None": lambda: [[1.0, None]],
    "rows of dicts": lambda: [{"a": 1.0}],
    "rows too large": lambda: [[10**30, 1]],
    "rows of truths": lambda: [[True, False]],
    "rows of integers": lambda: [np.arange(3)],
    "rows of two dtypes": lambda: [np.arange(3), np.zeros(3)],
    "integers": lambda: P.astype(np.int32),
    "unsigned": lambda: P.astype(np.uint16),
    "complex": lambda: P.astype(np.complex64),
    "complex rows": lambda: [[1j, 2.0]],
    "long doubles": lambda: P.astype(np.longdouble),
    "dates": lambda: np.zeros((2, 2), "M8[s]"),
    "an array of words": lambda: np.array([["a", "b"]]),
    "a table": lambda: np.zeros(3, [("x", np.float32), ("y", np.float32)]),
    "objects of two axes": lambda: P.astype(object),
    "hidden entries": lambda: np.ma.array(P, mask=P > 0),
    "what raises": Unreadable,
    "a GPU's": lambda: OnGpu(P),
    "a GPU's by DLPack": lambda: DlpackOnGpu(P),
}
DOORS: dict[str, tuple[Callable[[Any], object], str]] = {
    "topk queries": (lambda x: topk(x, P, K), "queries"),
    "topk prototypes": (lambda x: topk(Q, x, K), "prototypes"),
    "topk chunks": (lambda x: topk(Q, [P, x], K), "prototypes"),
    "bank": (PrototypeBank, "prototypes"),
    "bank.topk": (lambda x: PrototypeBank(P).topk(x, K), "queries"),
    "bank.add": (lambda x: PrototypeBank(P).add(x), "prototypes"),
    "verify queries": (lambda x: verify(x, P, expected()), "queries"),
    "verify prototypes": (lambda x: verify(Q, x, expected()), "prototypes"),
    "verify scores": (lambda x: verify(Q, P, (x, expected().indices)), "matches' scores"),
    "verify indices": (lambda x: verify(Q, P, (expected().scores, x)), "matches' indices"),
    "mask": (lambda x: topk(Q, P, K, mask=x), "mask"),
    "bank mask": (lambda x: PrototypeBank(P).topk(Q, K, mask=x), "mask"),
}


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU's arrays are not refused there")
@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("door", DOORS)
def test_refusals(door: str, what: str) -> None:
    call, name = DOORS[door]
    if "mask" in door and what in ("None", "rows of truths"):
        pytest.skip("no mask, and one of another shape")
    with pytest.raises((TypeError, ValueError), match=rf"^{name}\S* must (.|\n)*; got "):
        call(WRONG[what]())


def test_refusals_say_what_came() -> None:
    for value, message in (
        (OnGpu(P), r"on a GPU, and torch has no CUDA here"),
        (Unreadable(), r"got Unreadable \(it was closed\)"),
        ([np.zeros(2), None], r"^queries\[1\] must be .*; got NoneType"),
        (P.astype(np.longdouble), r"got an array of (longdouble|float\d+)"),
    ):
        if not (isinstance(value, OnGpu) and torch.cuda.is_available()):
            with pytest.raises(TypeError, match=message):
                as_vectors("queries", value)


def test_sparse_matrices_are_refused() -> None:
    sparse = pytest.importorskip("scipy.sparse")
    for make in (sparse.csr_matrix, sparse.coo_array):
        with pytest.raises(TypeError, match=r"^prototypes must be .*; got (csr_matrix|coo_array)"):
            topk(Q, make(P), K)
        with pytest.raises(TypeError, match=r"^queries must be .*; got (csr_matrix|coo_array)"):
            topk(make(Q), P, K)


@settings(max_examples=60, deadline=None)
@given(
    dtype=st.sampled_from(["<f2", ">f2", "<f4", ">f4", "<f8", ">f8"]),
    shape=st.tuples(st.integers(1, 7), st.integers(1, 5)),
    order=st.sampled_from("CF"),
    steps=st.tuples(st.sampled_from([1, 2, -1, -3]), st.sampled_from([1, 2, -1, -2])),
    is_frozen=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_layouts(
    dtype: str,
    shape: tuple[int, int],
    order: Any,
    steps: tuple[int, int],
    is_frozen: bool,
    seed: int,
) -> None:
    values = np.random.default_rng(seed).standard_normal((shape[0] * 3, shape[1] * 2))
    array = np.array(values, dtype=dtype, order=order)[:: steps[0], :: steps[1]]
    array.flags.writeable = not is_frozen
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = topk(array, array, 1, metric="l2")
        tensor = tensor_of(array)
    plain = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    wanted = topk(torch.tensor(plain), torch.tensor(plain), 1, metric="l2")
    assert_found(found, wanted)
    has_torchs_layout = array.dtype.isnative and min(array.strides) >= 0
    assert (tensor.data_ptr() == array.ctypes.data) == has_torchs_layout
    assert np.array_equal(array, plain)  # nobody wrote to it
