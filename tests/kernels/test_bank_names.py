"""Banks whose ids are strings, against a dictionary of names and vectors, which keeps its order."""

import copy
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from named import assert_same, names_of, rows_of, shown
from screens import SCREENS

from flashmatch.kernels import PrototypeBank

pytestmark = pytest.mark.usefixtures("poisoned_empty", "screened_small")


@pytest.fixture(params=SCREENS)
def screen(request: pytest.FixtureRequest) -> str:
    return request.param


class Column:
    """A column of a frame as some library has it, under the one name that it has for it."""

    def __init__(self, values: list, name: str) -> None:
        setattr(self, name, lambda: values)


FORMS: dict[str, Callable[[list[str]], object]] = {
    "list": list,
    "tuple": tuple,
    "deque": deque,
    "array": np.array,
    "array of objects": lambda ids: np.array(ids, dtype=object),
    "foreign array": lambda ids: np.array(ids, dtype=">U5"),
    "strided array": lambda ids: np.repeat(np.array(ids), 3)[::3],
    "scalars": lambda ids: [np.str_(i) for i in ids],
    "names of a bank": lambda ids: PrototypeBank(rows_of(len(ids)), ids=ids).ids,
    "to_pylist": lambda ids: Column(ids, "to_pylist"),
    "to_list": lambda ids: Column(ids, "to_list"),
    "tolist": lambda ids: Column(ids, "tolist"),
    "to_numpy": lambda ids: Column(np.array(ids), "to_numpy"),
    "__array__": lambda ids: SimpleArray(ids),
}
if hasattr(np.dtypes, "StringDType"):
    FORMS["StringDType"] = lambda ids: np.array(ids, dtype=np.dtypes.StringDType())


class SimpleArray:
    def __init__(self, values: list) -> None:
        self.values = values

    def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
        return np.array(self.values)

    def tolist(self) -> list:
        return self.values


@pytest.mark.parametrize("form", FORMS)
def test_names_may_be_given_in_any_form_and_order(form: str, screen: str) -> None:
    make, rows, ids = FORMS[form], rows_of(5), ["dog", "", "cat", "égal", "07"]
    bank = PrototypeBank(rows[:3], ids=make(ids[:3]), screen=screen)
    assert bank.add(rows[3:], ids=make(ids[3:])).tolist() == ids[3:]
    assert_same(bank, dict(zip(ids, rows, strict=True)))
    bank.remove(make(["cat", "dog"]))
    assert_same(bank, {"": rows[1], "égal": rows[3], "07": rows[4]})


def test_one_name_is_one_id(screen: str) -> None:
    rows = rows_of(2)
    bank = PrototypeBank(rows[:1], ids="cat", screen=screen)
    assert bank.add(rows[1:], ids=np.str_("dog")).tolist() == ["dog"]
    assert_same(bank, {"cat": rows[0], "dog": rows[1]})
    bank.remove("cat")
    assert_same(bank, {"dog": rows[1]})
    with pytest.raises(ValueError, match="one id for each of 3 rows; got 1"):
        PrototypeBank(rows_of(3), ids="cat")


@pytest.mark.parametrize("form", [lambda ids: ids, lambda ids: np.array(ids, dtype=object)])
def test_nuls_at_the_end_are_kept(form: Callable) -> None:
    ids = ["a", "a\0", "a\0\0", "\0", ""]
    bank = PrototypeBank(rows_of(5), ids=form(ids))
    bank.remove("a\0")
    assert bank.ids.tolist() == ["a", "a\0\0", "\0", ""]


WRONG = [
    (["a", "b", "a"], ValueError, "ids must be unique; got 'a' more than once"),
    (["a", "b", "n3"], ValueError, "ids must be new to the bank; got 'n3' again"),
    (["a", "b"], ValueError, "ids must have one id for each of 3 rows; got 2"),
    ([], ValueError, "ids must have one id for each of 3 rows; got 0"),
    (None, ValueError, "ids must be given where those of the bank are strings; got None"),
    (["a", "b", 5], TypeError, "ids must be .*strings.*; got 5"),
    ([5, "a", "b"], TypeError, "ids must be .*strings.*; got "),
    (["a", None, "b"], TypeError, "ids must be .*strings.*; got None"),
    (["a", float("nan"), "b"], TypeError, "ids must be .*strings.*; got nan"),
    (np.array(["a", np.nan, "b"], dtype=object), TypeError, "ids must be .*strings.*; got nan"),
    ([b"a", b"b", b"c"], TypeError, "ids must be .*strings.*; got b'a'"),
    (np.array([b"a", b"b", b"c"]), TypeError, "ids must be .*strings.*; got np.bytes_|b'a'"),
    (["a", b"b", "c"], TypeError, "ids must be .*strings.*; got b'b'"),
    (b"abc", TypeError, "ids must be .*strings.*; got b'abc'"),
    (bytearray(b"abc"), TypeError, "ids must be .*strings.*; got bytearray"),
    (["a", True, "b"], TypeError, "ids must be .*strings.*; got True"),
    ([1, True, 2], TypeError, "ids must be .*strings.*; got "),
    ({"a", "b", "c"}, TypeError, "ids must be .*strings.*; got {'"),
    (iter("abc"), TypeError, "ids must be .*strings.*; got <str"),
    ([["a"], ["b"], ["c"]], TypeError, r"ids must be .*strings.*; got \['a'\]"),
    (np.array([["a", "b", "c"]]), ValueError, r"ids must be 1-D; got shape \(1, 3\)"),
    (np.array("2020-01-01", dtype="M8[D]"), TypeError, "ids must be .*strings.*; got "),
    (Column(["a", None, "b"], "to_pylist"), TypeError, "ids must be .*strings.*; got None"),
    (SimpleNamespace(), TypeError, "ids must be .*strings.*; got namespace"),
]


@pytest.mark.parametrize(("ids", "error", "message"), WRONG)
def test_wrong_names_are_refused_and_change_nothing(
    ids: object, error: type, message: str, screen: str
) -> None:
    bank = PrototypeBank(rows_of(40), ids=names_of(40), screen=screen)
    before = shown(bank), bank.nbytes
    with pytest.raises(error, match=message):
        bank.add(rows_of(3), ids=ids)
    assert (shown(bank), bank.nbytes) == before
    if ids is not None and "new to" not in message:
        with pytest.raises(error, match=message):
            PrototypeBank(rows_of(3), ids=ids)


@pytest.mark.parametrize("ids", [[100, 101, 102], np.arange(3), torch.arange(3), range(3), (3,)])
def test_a_bank_of_names_takes_no_integers(ids: object) -> None:
    bank = PrototypeBank(rows_of(40), ids=names_of(40))
    for change in (lambda: bank.add(rows_of(3), ids=ids), lambda: bank.remove(ids)):
        with pytest.raises(TypeError, match="ids must be strings, as all of this bank are; got "):
            change()
    assert_same(bank, dict(zip(names_of(40), rows_of(40), strict=True)))


def test_a_bank_of_integers_takes_no_names() -> None:
    for bank in (PrototypeBank(rows_of(3)), PrototypeBank(rows_of(3), ids=[7, 3, 5])):
        ids = bank.ids.tolist()
        for change in (lambda: bank.add(rows_of(1), ids=["a"]), lambda: bank.remove("3")):  # noqa: B023
            with pytest.raises(TypeError, match=r"ids must be integers, as all .*; got '"):
                change()
        assert bank.ids.tolist() == ids
        bank.remove(ids)
        with pytest.raises(TypeError, match="ids must be integers"):  # which it was made with
            bank.add(rows_of(1), ids=["a"])


@pytest.mark.parametrize("none", [None, [], (), torch.empty(0), np.array([], dtype=str)])
def test_an_empty_bank_takes_what_comes_first(none: object, tmp_path: Path) -> None:
    path = tmp_path / "bank.safetensors"
    bank = PrototypeBank(rows_of(0), ids=none)
    bank.remove([])
    bank.save(path)
    for each in (copy.copy(bank), copy.deepcopy(bank), PrototypeBank.load(path)):
        each.add(rows_of(0))
        assert each.add(rows_of(1), ids=["a"]).tolist() == ["a"]
        assert_same(each, {"a": rows_of(1)[0]})
    assert bank.add(rows_of(2)).tolist() == [0, 1]
    with pytest.raises(TypeError, match="ids must be integers"):
        bank.add(rows_of(1), ids=["a"])


def test_what_is_not_there_is_named_and_nothing_removed() -> None:
    bank = PrototypeBank(rows_of(9), ids=names_of(9))
    bank.remove("n7")
    before = shown(bank)
    for ids, message in (
        ("n7", "ids must be in the bank; got 'n7'$"),
        (["n1", "x", "n7"], "ids must be in the bank; got 'x', 'n7'$"),
        (names_of(8, "y"), r"got 'y0', 'y1', 'y2', 'y3', 'y4', \.\.\.$"),
        (5, "ids must be strings"),
        (None, "ids must be strings.*; got None"),
        (b"n1", "ids must be strings.*; got b'n1'"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            bank.remove(ids)
    assert shown(bank) == before
    bank.remove([])
    bank.remove(["n1", "n1"])
    assert bank.ids.tolist() == ["n0", "n2", "n3", "n4", "n5", "n6", "n8"]


def test_a_removed_name_may_be_given_again(screen: str) -> None:
    rows = rows_of(40)
    bank = PrototypeBank(rows[:20], ids=names_of(20), screen=screen)
    oracle = dict(zip(names_of(20), rows, strict=False))
    for turn in range(20):  # it is compacted on the way
        for name in ("n3", "n7", f"n{10 + turn % 3}"):
            del oracle[name]
            bank.remove(name)
            oracle[name] = rows[20 + turn]
            assert bank.add(rows[20 + turn : 21 + turn], ids=[name]).tolist() == [name]
            with pytest.raises(ValueError, match=f"new to the bank; got '{name}'"):
                bank.add(rows[:1], ids=[name])
        assert_same(bank, oracle)


def test_most_may_go(screen: str) -> None:
    rows, ids = rows_of(3000), names_of(3000)
    bank = PrototypeBank(rows, ids=ids, screen=screen)
    bank.remove(ids[100:])
    bank._state.collection.ids.required(ids[:100])
    assert bank._state.collection.ids.count == 100  # compacted
    oracle = dict(zip(ids[:100], rows, strict=False))
    assert_same(bank, oracle)
    bank.add(rows[100:150], ids=ids[100:150])
    assert_same(bank, oracle | dict(zip(ids[100:150], rows[100:150], strict=True)))
    bank.remove(bank.ids)
    assert_same(bank, {})
    with pytest.raises(ValueError, match="ids must be given where"):
        bank.add(rows[:1])
    bank.add(rows[:1], ids=ids[:1])
    assert_same(bank, {ids[0]: rows[0]})


def test_what_a_mask_leaves_out_has_no_id(screen: str) -> None:
    rows, queries = rows_of(30), rows_of(4, 1)
    mask = torch.rand(4, 29, generator=torch.Generator().manual_seed(0)) < 0.1
    assert bool((mask.sum(1) < 5).any())
    named = PrototypeBank(rows, ids=names_of(30), screen=screen)
    numbered = PrototypeBank(rows, ids=range(5, 35), screen=screen)
    named.remove("n11")
    numbered.remove(16)
    for m in (mask, mask[0]):
        scores, indices = numbered.topk(queries, 5, mask=m)
        there = [-1 if i < 0 else int(numbered.ids[i]) for i in indices.flatten().tolist()]
        found = numbered.search(queries, 5, mask=m)
        assert torch.equal(found.scores, scores)
        assert found.ids.dtype == torch.int64
        assert found.ids.flatten().tolist() == there
        found = named.search(queries, 5, mask=m)
        assert torch.equal(found.scores, scores)
        assert found.ids.flatten().tolist() == [None if i < 0 else f"n{i - 5}" for i in there]


def test_searches_between_changes(screen: str) -> None:
    """What a search kept of one state is not that of the next."""
    rows = rows_of(60)
    oracle = dict(zip(names_of(40), rows, strict=False))
    bank = PrototypeBank(rows[:40], ids=list(oracle), screen=screen)
    for turn in range(6):
        bank.remove(f"n{turn}")
        del oracle[f"n{turn}"]
        assert_same(bank, oracle)
        if turn % 2:
            bank.add(rows[40 + turn :][:2], ids=[f"x{turn}", f"y{turn}"])
            oracle |= {f"x{turn}": rows[40 + turn], f"y{turn}": rows[41 + turn]}
            assert_same(bank, oracle)


@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("k", [0, 1, 2])
def test_shapes_of_a_search(count: int, k: int) -> None:
    for ids in (names_of(2), None):
        found = PrototypeBank(rows_of(2), ids=ids).search(rows_of(count, 1), k)
        assert tuple(found.scores.shape) == tuple(found.ids.shape) == (count, k)


def test_a_search_counts_and_refuses_as_topk_and_has_gradients() -> None:
    bank = PrototypeBank(rows_of(20), ids=names_of(20))
    queries = rows_of(3, 1).requires_grad_()
    scores, _ = bank.search(queries, 2)
    scores.sum().backward()
    assert queries.grad is not None
    assert bank.stats.queries == 3
    with pytest.raises(ValueError, match="k must be between 0 and 20"):
        bank.search(queries, 21)
    with pytest.raises(ValueError, match="mask must have shape"):
        bank.search(queries, 2, mask=torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match="queries must have the bank's 6 channels"):
        bank.search(queries[:, :2], 2)
    with torch.inference_mode():
        assert bank.search(rows_of(3, 1), 2).ids.shape == (3, 2)


def test_names_are_the_callers_own() -> None:
    ids = np.array(["a", "b", "c"], dtype=object)
    bank = PrototypeBank(rows_of(3), ids=ids)
    ids[:] = "x"
    bank.ids[:] = "y"
    bank.search(rows_of(2, 1), 2).ids[:] = "z"
    bank.add(rows_of(1), ids=["d"])[:] = "w"
    assert bank.ids.tolist() == ["a", "b", "c", "d"]


def test_memory_of_names_is_counted() -> None:
    rows, ids = rows_of(1000), names_of(1000, "a rather long name of a document ")
    named, numbered = PrototypeBank(rows, ids=ids), PrototypeBank(rows)
    least = sum(map(sys.getsizeof, ids)) + 8 * 1000
    before = named.nbytes
    assert numbered.nbytes + least < before < numbered.nbytes + least + 200 * 1000
    named.add(rows[:1], ids=["x" * 10_000])
    assert named.nbytes > before + 10_000
