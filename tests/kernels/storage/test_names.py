"""Names in files, which nobody vouches for, and in memory that several states share."""

import copy
import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from rewriting import contents, rewritten
from safetensors.torch import save_file
from torch import Tensor

from flashmatch.kernels import PrototypeBank
from flashmatch.kernels.storage import bank_file
from flashmatch.kernels.storage.ids import text
from flashmatch.kernels.storage.ids.given import as_ids
from flashmatch.kernels.storage.ids.names import Names, as_name_array

AWKWARD = [
    *("", "\0", "a", "a\0", "\0a", " ", "\n", "nan", "None", "-1", "7", "07", "<b>&\"'"),
    *("é", "e\u0301", "日本", "😀", "\ud83d\ude00", "\udc80", "\ud800", "a\udcffb"),
    *("\ufeff", "\uffff", "\U0010ffff", "x" * 100_000),
]
"""All different: a surrogate pair is not the character that it would stand for in UTF-16."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bank.safetensors"


def rows_of(count: int) -> Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(0))


# Text


def test_any_string_comes_back() -> None:
    assert len(set(AWKWARD)) == len(AWKWARD)
    data, ends = text.encoded(as_name_array(AWKWARD))
    assert data.dtype == torch.uint8
    assert text.decoded(data, ends) == AWKWARD
    assert bytes(data[int(ends[12]) :][:2].tolist()).decode() == "é"  # it is UTF-8 to others
    nothing = text.encoded(as_name_array([]))
    assert [list(part.shape) for part in nothing] == [[0], [0]]
    assert text.decoded(*nothing) == []
    with pytest.raises(ValueError, match="names have shape"):
        text.decoded(torch.tensor(3, dtype=torch.uint8), torch.tensor([1]))


def test_any_string_comes_back_from_a_file(path: Path) -> None:
    bank = PrototypeBank(rows_of(len(AWKWARD)), ids=AWKWARD)
    bank.save(path)
    loaded = PrototypeBank.load(path, check=True)
    assert loaded.ids.tolist() == AWKWARD
    assert torch.equal(loaded.vectors(), bank.vectors())
    loaded.remove(AWKWARD[::2])
    loaded.save(path)
    assert PrototypeBank.load(path).ids.tolist() == AWKWARD[1::2]


# Files


def saved(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    PrototypeBank(rows_of(4), ids=["cat", "dog", "", "égo"]).save(path)
    return contents(path)


def test_only_files_with_names_are_of_a_newer_format(path: Path) -> None:
    tensors, metadata = saved(path)
    assert metadata["format"] == "flashmatch.PrototypeBank 3"  # which 0.1 refuses by that
    assert bytes(tensors["names"].tolist()).decode() == "catdogégo"
    assert tensors["name_ends"].tolist() == [3, 6, 6, 10]
    assert "ids" not in tensors
    PrototypeBank(rows_of(4), ids=[4, 3, 2, 1]).save(path)
    tensors, metadata = contents(path)
    assert metadata["format"] == "flashmatch.PrototypeBank 2"
    assert not {"names", "name_ends"} & set(tensors)


def test_vectors_of_a_file_with_names_are_not_taken_for_a_matrix(path: Path) -> None:
    saved(path)
    with pytest.raises(ValueError, match=r"PrototypeBank.load opens it"):
        PrototypeBank(path)


@pytest.mark.parametrize("name", ["names", "name_ends"])
def test_every_byte_of_names_counts(name: str, path: Path) -> None:
    saved(path)
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    start, stop = json.loads(content[8 : 8 + size])[name]["data_offsets"]
    for position in range(8 + size + start, 8 + size + stop):
        for bit in range(8):
            damaged = bytearray(content)
            damaged[position] ^= 1 << bit
            path.write_bytes(damaged)
            message = f"{re.escape(str(path))}.*of '{name}' have changed"
            for check in (None, False, True):
                with pytest.raises(ValueError, match=message):
                    PrototypeBank.load(path, check=check)


def test_names_that_change_on_the_disk_are_found_by_check(path: Path) -> None:
    tensors, _ = saved(path)
    bank = PrototypeBank.load(path)
    content = path.read_bytes()
    at = content.index(bytes(tensors["names"].tolist()))
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(b"C")
    with pytest.raises(ValueError, match="'names' have changed"):
        bank.check()
    assert bank.ids.tolist() == ["cat", "dog", "", "égo"]  # they were read


def ends(*values: int) -> Tensor:
    return torch.tensor(values)


DAMAGE = {
    "no names": (lambda t: t.pop("names"), "it has no names"),
    "no ends": (lambda t: t.pop("name_ends"), "it has no name_ends"),
    "ids instead": (
        lambda t: (t.pop("names"), t.pop("name_ends"), t.update(ids=torch.arange(4))),
        "it has no names",
    ),
    "fewer ends": (lambda t: t.update(name_ends=ends(3, 6, 10)), r"name_ends are .* \(3,\)"),
    "more ends": (lambda t: t.update(name_ends=ends(3, 6, 6, 10, 10)), r"name_ends are .* \(5,\)"),
    "none": (lambda t: t.update(name_ends=ends()), "name_ends are torch.float32"),
    "none of int64": (lambda t: t.update(name_ends=ends().long()), r"name_ends are .* \(0,\)"),
    "flat ends": (lambda t: t.update(name_ends=t["name_ends"][:, None].clone()), "name_ends are"),
    "narrow ends": (lambda t: t.update(name_ends=t["name_ends"].short()), "name_ends are"),
    "floating ends": (lambda t: t.update(name_ends=t["name_ends"].double()), "name_ends are"),
    "signed bytes": (lambda t: t.update(names=t["names"].to(torch.int8)), "names are torch.int8"),
    "wide bytes": (lambda t: t.update(names=t["names"].long()), "names are torch.int64"),
    "a table of bytes": (lambda t: t.update(names=t["names"].reshape(2, 5)), "names have shape"),
    "no bytes": (lambda t: t.update(names=t["names"][:0]), "end at 10 of 0 bytes"),
    "fewer bytes": (lambda t: t.update(names=t["names"][:-1]), "end at 10 of 9 bytes"),
    "more bytes": (
        lambda t: t.update(names=torch.cat([t["names"], t["names"]])),
        "end at 10 of 20 bytes",
    ),
    "ends descend": (lambda t: t.update(name_ends=ends(3, 6, 5, 10)), "do not ascend"),
    "ends begin below 0": (lambda t: t.update(name_ends=ends(-1, 6, 6, 10)), "do not ascend"),
    "an end beyond": (lambda t: t.update(name_ends=ends(3, 60, 6, 10)), "do not ascend"),
    "the last too early": (lambda t: t.update(name_ends=ends(3, 6, 6, 6)), "end at 6 of 10"),
    "the last too late": (lambda t: t.update(name_ends=ends(3, 6, 6, 11)), "end at 11 of 10"),
    "ends whose differences overflow": (
        lambda t: t.update(name_ends=ends(2**63 - 1, -(2**63), 6, 10)),
        "do not ascend",
    ),
    "the last below 0": (lambda t: t.update(name_ends=ends(3, 6, 6, -(2**63))), "of 10 bytes"),
    "cut within a character": (lambda t: t.update(name_ends=ends(3, 6, 7, 10)), "name 2 is no UTF"),
    "no UTF-8": (lambda t: t["names"][1].fill_(0xFF), "name 0 is no UTF-8"),
    "too long a form": (lambda t: t["names"][:2].copy_(ends(0xC0, 0x80)), "name 0 is no UTF-8"),
    "a name twice": (lambda t: t["names"][3:6].copy_(t["names"][:3]), "ids must be unique.*'cat'"),
    "the empty one twice": (lambda t: t.update(name_ends=ends(0, 6, 6, 10)), "ids must be unique"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_names_that_cannot_be_are_refused(what: str, path: Path) -> None:
    tensors, metadata = saved(path)
    damage, message = DAMAGE[what]
    damage(tensors)
    rewritten(path, tensors, metadata)
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}.*{message}"):
        PrototypeBank.load(path)


ABOUT = [
    {"following_id": 3},
    {"following_id": -1},
    {"following_id": "4"},
    {"following_id": None},
    {"following_id": 2**70},
]


@pytest.mark.parametrize("about", ABOUT)
def test_facts_that_cannot_be_are_refused(about: dict, path: Path) -> None:
    tensors, metadata = saved(path)
    bank = json.loads(metadata["bank"]) | about
    rewritten(path, tensors, metadata | {"bank": json.dumps(bank)})
    with pytest.raises(ValueError, match=re.escape(str(path))):
        PrototypeBank.load(path)


def test_checksums_are_asked_for_where_there_are_names(path: Path) -> None:
    save_file(
        {"prototypes": rows_of(3)}, path, {"format": bank_file.FORMAT_WITH_NAMES, "bank": "{}"}
    )
    with pytest.raises(ValueError, match="its checksums are gone"):
        PrototypeBank.load(path)


@pytest.mark.parametrize("version", ["1", "2", "4", "03", "3 "])
def test_a_format_says_whether_there_are_names(version: str, path: Path) -> None:
    tensors, metadata = saved(path)
    rewritten(path, tensors, metadata | {"format": f"flashmatch.PrototypeBank {version}"})
    with pytest.raises(ValueError, match=re.escape(str(path))):
        PrototypeBank.load(path)


def test_names_without_any_rows(path: Path) -> None:
    bank = PrototypeBank(rows_of(2), ids=["a", "b"])
    bank.remove(["a", "b"])
    bank.save(path)
    loaded = PrototypeBank.load(path)
    assert loaded.ids.tolist() == []
    with pytest.raises(TypeError, match="ids must be strings"):
        loaded.add(rows_of(1), ids=[1])
    assert loaded.add(rows_of(1), ids=["a"]).tolist() == ["a"]


# Memory


def test_names_share_what_they_have_in_common() -> None:
    first = Names().appended(["a", "b"])
    second = first.appended(["c"])
    third = second.appended(["d"])
    assert third._rows is second._rows is first._rows
    fourth = third.appended(["e"])
    assert fourth._buffer is third._buffer  # it had room
    assert [n.by_row.tolist() for n in (first, second)] == [["a", "b"], ["a", "b", "c"]]
    assert first.rows(["a", "c"]).tolist() == [0, -1]
    assert third.rows(["d", "c", "e"]).tolist() == [3, 2, -1]


def test_two_that_grow_from_one_do_not_meet() -> None:
    base = Names().appended(["a", "b"]).appended(["c"])
    left, right = base.appended(["l", "x"]), base.appended(["x", "r"])
    for each, names in ((left, "abclx"), (right, "abcxr"), (base, "abc")):
        assert each.by_row.tolist() == list(names)
        known = [names.find(name) for name in "abclxr"]
        assert each.rows(list("abclxr")).tolist() == known
    again = right.appended(["y"])
    assert again._rows is right._rows  # made once, and continued
    assert base.appended(["x"]).rows(["x", "l", "r"]).tolist() == [3, -1, -1]


def test_a_name_that_comes_back_has_a_row_for_each_time() -> None:
    states = [Names()]
    for turn in range(20_000):
        states.append(states[-1].appended([f"{turn}", "again"]))
    for count in (1, 2, 7, 20_000):
        assert states[count].rows(["again", f"{count - 1}"]).tolist() == [
            2 * count - 1,
            2 * count - 2,
        ]
    assert states[0].rows(["again"]).tolist() == [-1]
    del states[:-1]


def test_copies_of_names_are_their_own() -> None:
    names = Names().appended(["a", "\udc80"]).appended(["b"])
    for other in (copy.deepcopy(names), copy.copy(names), pickle.loads(pickle.dumps(names))):
        assert other.by_row.tolist() == names.by_row.tolist()
        assert other.rows(["b", "c"]).tolist() == [2, -1]
        more = other.appended(["c"])
        assert more.rows(["b", "c"]).tolist() == [2, 3]
    assert names.rows(["c"]).tolist() == [-1]


def test_an_array_of_names_takes_tensors_of_any_shape() -> None:
    array = as_name_array(["a", "b", "c"])
    for index in (torch.tensor([[2, 0]]), torch.tensor([[1]]), torch.tensor([1]), torch.tensor(1)):
        found = array[index]
        expected = np.array(["a", "b", "c"], dtype=object)[index.numpy()]
        assert np.array_equal(found, expected)
        assert np.shape(found) == index.shape
    assert array[torch.empty(0, 3, dtype=torch.int64)].shape == (0, 3)
    assert array[torch.tensor([True, False, True])].tolist() == ["a", "c"]
    assert array[1] == "b"
    assert array[1:].tolist() == ["b", "c"]


def test_ids_that_are_read_are_plain() -> None:
    """A subclass of str, with its own equality perhaps, is its text."""

    class Odd(str):
        __slots__ = ()
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            return False

    (name,) = as_ids([Odd("a")])
    assert type(name) is str
    assert name == "a"
    assert type(as_ids(np.str_("a"))[0]) is str
    assert type(as_ids(np.array(["a"]))[0]) is str
