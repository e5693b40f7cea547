"""Files that notice: what was changed on a disk, or by somebody, is refused or found."""

import json
import mmap
import os
import re
from pathlib import Path

import pytest
import safetensors
import torch
from faults.banks import is_consistent
from programs import in_threads
from rewriting import CHECKSUMS, contents, rewritten
from safetensors.torch import save_file
from screens import CODED, INT8, needs_int8
from torch import Tensor

from flashmatch import topk
from flashmatch.kernels import PrototypeBank, dispatch
from flashmatch.kernels.products import choice
from flashmatch.kernels.storage import bank_file

CHANNELS = 12
pytestmark = pytest.mark.usefixtures("screened_small")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bank.safetensors"


def rows_of(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, CHANNELS, generator=torch.Generator().manual_seed(seed))


def saved(path: Path, count: int = 3000, screen: str = CODED, **options: object) -> PrototypeBank:
    bank = PrototypeBank(rows_of(count), metric="dot", screen=screen, **options)
    bank.save(path)
    return bank


# Checksums


@pytest.mark.parametrize("screen", sorted({CODED, "float"}))
def test_every_bit_of_a_small_file_counts(screen: str, path: Path) -> None:
    saved(path, 20, screen)
    content = path.read_bytes()
    for position in range(0, len(content), 1 + len(content) // 700):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=re.escape(str(path))):
            PrototypeBank.load(path)


def flip(path: Path, position: int) -> None:
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[position] ^= 4


def position_of(path: Path, name: str, row: int) -> int:
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    entry = json.loads(content[8 : 8 + size])[name]
    start, stop = entry["data_offsets"]
    return 8 + size + start + row * (stop - start) // entry["shape"][0]


def test_a_vector_that_changed_is_found_by_check_always(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 60_000  # three blocks of a megabyte
    saved(path, count)
    monkeypatch.setattr(bank_file, "CHECKED_BYTES", 0)  # as of a file that is larger
    for row, block in ((0, 0), (30_000, 1), (count - 1, 2)):
        bank = PrototypeBank.load(path)
        bank.check()
        flip(path, position_of(path, "prototypes", row))
        first, last = block * 21845, min(block * 21845 + 21844, count - 1)
        message = f"{re.escape(str(path))}.*rows {first} to {last} of 'prototypes' have changed"
        with pytest.raises(ValueError, match=message):
            bank.check()  # it was opened before
        assert len(PrototypeBank.load(path)) == count  # vectors are not read
        with pytest.raises(ValueError, match=message):
            PrototypeBank.load(path).check()
        with pytest.raises(ValueError, match=message):
            PrototypeBank.load(path, check=True)
        flip(path, position_of(path, "prototypes", row))
    PrototypeBank.load(path, check=True)


def test_a_file_that_was_cut_short_since_is_not_read(path: Path) -> None:
    """Whoever reads a mapped page that is no longer there is killed."""
    saved(path, 60_000)
    bank = PrototypeBank.load(path)
    size = path.stat().st_size
    os.truncate(path, size // 3)
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}.*was cut from {size} bytes"):
        bank.check()


def test_a_file_that_was_replaced_since_is_another(path: Path) -> None:
    saved(path, 3000)
    bank = PrototypeBank.load(path)
    saved(path, 10)
    bank.check()
    path.unlink()
    bank.check()


def test_vectors_that_are_few_are_checked_when_they_are_opened(path: Path) -> None:
    saved(path)
    flip(path, position_of(path, "prototypes", 1234))
    with pytest.raises(ValueError, match="'prototypes' have changed"):
        PrototypeBank.load(path)
    assert len(PrototypeBank.load(path, check=False)) == 3000


@pytest.mark.parametrize("name", ["ids", "codes", "place", "dead", "bounds", "norms", "origin"])
@needs_int8
def test_what_is_read_into_memory_is_checked_whatever_is_asked(name: str, path: Path) -> None:
    saved(path)
    flip(path, position_of(path, name, 0))
    for check in (None, False, True):
        with pytest.raises(ValueError, match=f"{re.escape(str(path))}.*'{name}' have changed"):
            PrototypeBank.load(path, check=check)


def test_files_of_others_need_no_checksums(path: Path) -> None:
    rows = rows_of(30)
    save_file({"anything": rows, "checksums": torch.arange(3)}, path)
    assert torch.equal(PrototypeBank(path).vectors(), rows)
    save_file({"prototypes": rows}, path, {"format": bank_file.FORMAT, "bank": "{}"})
    with pytest.raises(ValueError, match="its checksums are gone"):
        PrototypeBank.load(path)


# Values, with checksums that are right


VALUES = {
    "place": lambda t, a: t["place"].fill_(32767),
    "place, negative": lambda t, a: t["place"].fill_(-32768),
    "place, twice the same": lambda t, a: t["place"][:2].fill_(7),
    "dead": lambda t, a: t["dead"].fill_(True),
    "one dead": lambda t, a: t["dead"][:1].fill_(True),
    "padding alive": lambda t, a: t["dead"][-1024:].fill_(False),
    "scale 0": lambda t, a: t["bounds"][:, 0].fill_(0),
    "scale nan": lambda t, a: t["bounds"][3, 0].fill_(torch.nan),
    "error negative": lambda t, a: t["bounds"][3, 1].fill_(-1),
    "size infinite": lambda t, a: t["bounds"][3, 2].fill_(torch.inf),
    "bias nan": lambda t, a: t["bounds"][3, 3].fill_(torch.nan),
    "norms negative": lambda t, a: t["norms"][3:].fill_(-1),
    "norms nan": lambda t, a: t["norms"][3:4].fill_(torch.nan),
    "norms large": lambda t, a: t["norms"][3:4].fill_(1e30),
    "origin": lambda t, a: t["origin"].fill_(torch.inf),
    "fewer codes": lambda t, a: t.update(codes=t["codes"][:1]),
    "wider codes": lambda t, a: t.update(codes=torch.cat([t["codes"], t["codes"]], 1)),
    "codes of another dtype": lambda t, a: t.update(codes=t["codes"].short()),
    "no codes": lambda t, a: t.pop("codes"),
    "no origin": lambda t, a: t.pop("origin"),
    "negative ids": lambda t, a: t["ids"].fill_(-7),
    "ids twice": lambda t, a: t["ids"][:2].fill_(5),
    "fewer ids": lambda t, a: t.update(ids=t["ids"][:-1]),
    "floating ids": lambda t, a: t.update(ids=t["ids"].double()),
    "no ids": lambda t, a: t.pop("ids"),
    "no vectors": lambda t, a: t.pop("prototypes"),
    "flat vectors": lambda t, a: t.update(prototypes=t["prototypes"].flatten()),
    "integer vectors": lambda t, a: t.update(prototypes=t["prototypes"].long()),
    "a row that is not there": lambda t, a: t.update(nonfinite=torch.tensor([10**12])),
    "a negative row": lambda t, a: t.update(nonfinite=torch.tensor([-1])),
    "rows in disorder": lambda t, a: t.update(nonfinite=torch.tensor([5, 3])),
    "rows, though none may be": lambda t, a: t.update(nonfinite=torch.tensor([5])),
    "no rows": lambda t, a: t.pop("nonfinite"),
    "metric": lambda t, a: a.update(metric="nope"),
    "metric, none": lambda t, a: a.pop("metric"),
    "metric, a list": lambda t, a: a.update(metric=["dot"]),
    "nonfinite": lambda t, a: a.update(nonfinite=3),
    "screen": lambda t, a: a.update(screen="fp8"),
    "seed, large": lambda t, a: a.update(seed=10**30),
    "seed, text": lambda t, a: a.update(seed="x"),
    "next id, text": lambda t, a: a.update(following_id="x"),
    "next id, taken": lambda t, a: a.update(following_id=3),
    "next id, none": lambda t, a: a.pop("following_id"),
    "next id, large": lambda t, a: a.update(following_id=10**30),
    "fitted on": lambda t, a: a.update(fitted_on=-1),
    "too large": lambda t, a: a.update(too_large="no"),
}


@needs_int8
@pytest.mark.parametrize("what", VALUES)
def test_what_cannot_be_is_refused(what: str, path: Path) -> None:
    saved(path, 2100)
    tensors, metadata = contents(path)
    about = json.loads(metadata["bank"])
    VALUES[what](tensors, about)
    rewritten(path, tensors, metadata | {"bank": json.dumps(about)})
    with pytest.raises(ValueError, match=re.escape(str(path))):
        PrototypeBank.load(path)


@pytest.mark.parametrize("text", ["", "[]", "null", "3", "{", "[" * 100_000, '{"metric": "dot"}'])
def test_headers_that_say_nothing(text: str, path: Path) -> None:
    saved(path)
    tensors, metadata = contents(path)
    rewritten(path, tensors, metadata | {"bank": text})
    with pytest.raises(ValueError, match=re.escape(str(path))):
        PrototypeBank.load(path)


MEASURED = {
    "errors of codes": lambda t: t["bounds"][:, 1].mul_(0.5),
    "sizes of codes": lambda t: t["bounds"][:, 2].mul_(0.9),
    "norms": lambda t: t["norms"][3].mul_(1.001),
    "codes": lambda t: t["codes"][5].zero_(),
    "places": lambda t: t["place"][:1024].copy_(t["place"][:1024].flip(0)),
    "scales": lambda t: t["bounds"][:, 0].mul_(1.01),
    "lengths": lambda t: t["bounds"][:, 3].sub_(1.0),
}


@needs_int8
@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
@pytest.mark.parametrize("what", MEASURED)
def test_what_is_not_true_of_the_vectors_is_found_by_check(
    what: str, metric: str, path: Path
) -> None:
    PrototypeBank(rows_of(2100), metric=metric, screen="int8").save(path)
    PrototypeBank.load(path, check=True)
    tensors, metadata = contents(path)
    MEASURED[what](tensors)
    rewritten(path, tensors, metadata)
    bank = PrototypeBank.load(path)
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}.*rows 0 to 2099 differ"):
        bank.check()
    with pytest.raises(ValueError, match="rows 0 to 2099 differ"):
        PrototypeBank.load(path, check=True)


@pytest.mark.parametrize("kind", ["gaussian", "heavy", "tiny", "large", "zeros", "offset", "relu"])
@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_check_is_content_with_what_is_true(metric: str, kind: str) -> None:
    from features import features

    rows = features(kind, 2500, 40, torch.Generator().manual_seed(0))
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        bank = PrototypeBank(rows.to(dtype), metric=metric, screen=CODED)
        bank.check()
        bank.add(rows[:100].to(dtype))
        bank.remove(range(50))
        bank.check()


@needs_int8
def test_vectors_changed_in_memory_are_found(path: Path) -> None:
    rows = rows_of(2100)
    bank = PrototypeBank(rows, screen="int8")
    rows[1500] = rows[3]
    with pytest.raises(ValueError, match="vectors must be those that were prepared"):
        bank.check()
    rows = rows_of(300)
    bank = PrototypeBank(rows, screen="float")
    bank.check()
    rows[7] = torch.nan
    with pytest.raises(ValueError, match="finite"):
        bank.check()


# Several writers, and what comes back


@pytest.mark.parametrize("rows", [500, 700])
def test_a_save_while_a_file_is_opened(
    rows: int, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """safetensors opens it twice; what comes between belongs to another bank."""
    old, new = (PrototypeBank(torch.full((n, 8), x)) for n, x in ((500, 1.0), (rows, 2.0)))
    old.save(path)
    real, opened = safetensors.safe_open, []

    def slow(*arguments: object):
        opened.append(real(*arguments))
        if len(opened) == 1:
            new.save(path)
        return opened[-1]

    monkeypatch.setattr(safetensors, "safe_open", slow)
    found = PrototypeBank.load(path, check=True)
    assert len(opened) == 2
    assert torch.equal(found.vectors(), new.vectors())


def test_two_saves_to_one_path(path: Path) -> None:
    ones, twos = (
        PrototypeBank(torch.full((20_000, 32), float(x)), screen="float", ids=range(x, 20_000 + x))
        for x in (1, 2)
    )

    def save(bank: PrototypeBank) -> None:
        for _ in range(15):
            bank.save(path)
            found = PrototypeBank.load(path, check=True)
            assert found.vectors()[0, 0] == found.ids[0]

    in_threads(save, (ones, twos) * 2)
    assert os.listdir(path.parent) == [path.name]


def suppose(patch: pytest.MonkeyPatch, are_fast: bool) -> None:
    """That codes are faster than floats, or not."""
    patch.setattr(choice, "are_codes_fast", lambda device, channels: are_fast)


def test_a_file_keeps_what_was_asked_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what "auto" stands for is found out anew."""
    for asked in ("auto", "float", *{CODED}):
        for is_fast in (True, False):
            suppose(monkeypatch, is_fast)
            if not INT8 and is_fast:
                continue
            bank = PrototypeBank(rows_of(1100), metric="dot", screen=asked)
            bank.save(path)
            for there in (True, False):
                suppose(monkeypatch, there)
                if not INT8 and there:
                    continue
                loaded = PrototypeBank.load(path)
                in_use = {"auto": "int8" if there else "float"}.get(asked, asked)
                assert loaded.screen == in_use
                assert loaded._state.coder.asked == asked
                assert is_consistent(loaded)


@needs_int8
def test_codes_serve_whatever_the_processor(
    path: Path, coded_rows: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(path, 2100)
    del coded_rows[:]
    suppose(monkeypatch, False)
    assert PrototypeBank.load(path).screen == "int8"
    assert coded_rows == []


@needs_int8
def test_what_was_asked_for_and_cannot_be_had(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answers are the same in float; asked for it stays."""
    bank = saved(path, 2100, "int8")
    with monkeypatch.context() as patch:
        patch.setattr(choice, "product_of_codes", lambda device: "")
        suppose(patch, False)
        loaded = PrototypeBank.load(path)
        assert loaded.screen == "float"
        assert all(map(torch.equal, loaded.topk(rows_of(3), 5), bank.topk(rows_of(3), 5)))
        loaded.save(path)
        assert dispatch.layout_for(torch.device("cpu"), CHANNELS, "auto") is None
    assert PrototypeBank.load(path).screen == "int8"


def written_before_checksums(path: Path, bank: PrototypeBank, screen: str) -> None:
    """As version 0.1 wrote it."""
    bank.save(path)
    tensors, metadata = contents(path)
    about = json.loads(metadata["bank"])
    del tensors[CHECKSUMS], about["too_large"]
    if "codes" not in tensors:
        del tensors["nonfinite"]
    about["screen"] = screen
    metadata = {"format": "flashmatch.PrototypeBank 1", "bank": json.dumps(about)}
    save_file(tensors, path, metadata)


@pytest.mark.parametrize("screen", sorted({CODED, "float"}))
def test_files_from_before_checksums_are_read(screen: str, path: Path) -> None:
    rows = rows_of(2100)
    rows[7] = torch.nan
    bank = PrototypeBank(rows, ids=range(5, 2105), screen=screen, nonfinite="exclude")
    bank.remove(2104)
    written_before_checksums(path, bank, screen)
    loaded = PrototypeBank.load(path)
    assert torch.equal(loaded.ids, bank.ids)
    assert all(map(torch.equal, loaded.topk(rows_of(3), 9), bank.topk(rows_of(3), 9)))
    assert loaded.add(rows_of(1)).tolist() == [2105]
    loaded.check()


@needs_int8
@pytest.mark.parametrize("what", ["place", "bounds", "dead", "norms", "codes"])
def test_codes_from_before_checksums_are_not_believed(
    what: str, path: Path, coded_rows: list[int]
) -> None:
    bank = PrototypeBank(rows_of(2100), screen="int8", metric="dot")
    written_before_checksums(path, bank, "int8")
    tensors, metadata = contents(path)
    tensors[what].fill_(1)
    save_file(tensors, path, metadata)
    loaded = PrototypeBank.load(path)
    assert is_consistent(loaded)
    expected = topk(rows_of(3), rows_of(2100), 5, metric="dot")
    assert all(map(torch.equal, loaded.topk(rows_of(3), 5), expected))


def test_vectors_that_are_not_finite_in_an_old_file_are_refused(path: Path) -> None:
    bank = PrototypeBank(rows_of(40), screen="float")
    written_before_checksums(path, bank, "float")
    tensors, metadata = contents(path)
    tensors["prototypes"][3] = torch.nan
    save_file(tensors, path, metadata)
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}.*finite.* row 3"):
        PrototypeBank.load(path)
