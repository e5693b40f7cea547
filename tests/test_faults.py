"""Faults on purpose, a minute of them (``python -m faults`` runs more), and that they are seen."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from faults import banks, corrupt, defects, extremes, interrupt, race
from faults.__main__ import KINDS, in_a_process
from screens import needs_int8

from flashmatch import PrototypeBank
from flashmatch.kernels.concurrency import room
from flashmatch.kernels.files import tensor_file
from flashmatch.kernels.storage import audit, bank_file, prepared

AMOUNTS = {
    "corruptions": 1500,
    "images": 500,
    "kills": 40,
    "interrupts": 60,
    "threads": 10,
    "extremes": 150,
}
pytestmark = pytest.mark.usefixtures("screened_small")
posix = pytest.mark.skipif(os.name != "posix", reason="signals and forks of POSIX")


@posix
@pytest.mark.parametrize("kind", KINDS)
def test_no_defect(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    support = str(Path(__file__).parent / "support")
    monkeypatch.setenv("PYTHONPATH", support)
    counts = in_a_process(kind, AMOUNTS[kind], seed=1)
    assert sum(counts.values()) >= min(AMOUNTS[kind], 60)
    assert defects(counts) == {}


@posix
def test_the_command_fails_where_there_is_a_defect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that ends in a crash is counted as one."""
    (tmp_path / "sitecustomize.py").write_text("import os; os.environ.get('CRASH') and os.abort()")
    support = str(Path(__file__).parent / "support")
    monkeypatch.setenv("PYTHONPATH", f"{support}:{tmp_path}")
    command = [sys.executable, "-m", "faults", "--threads", "0", "--kills", "0", "--extremes", "0"]
    command += ["--interrupts", "0", "--images", "0", "--corruptions", "3", "--seed", "1"]
    assert subprocess.run(command, capture_output=True).returncode == 0
    with monkeypatch.context() as patch:
        patch.setenv("CRASH", "1")
        assert in_a_process("corruptions", 3, 1) == {"CRASHED with -6": 1}


@pytest.mark.parametrize("kind", banks.KINDS)
def test_every_kind_of_bank_is_sound(kind: str, tmp_path: Path) -> None:
    bank = banks.KINDS[kind]()
    bank.check()
    assert banks.is_consistent(bank)
    bank.save(tmp_path / "bank.safetensors")
    assert banks.seen(PrototypeBank.load(tmp_path / "bank.safetensors")) == banks.seen(bank)


def test_damage_is_counted_where_nothing_checks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensor_file.TensorFile, "check", lambda *_: None)
    counts = corrupt.run(300, 1, tmp_path)
    assert any(what.startswith("WRONG without a word") for what in defects(counts))


@needs_int8
def test_values_are_counted_where_nobody_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared, "find_mismatch", lambda *_: None)
    monkeypatch.setattr(bank_file._Reader, "_require", lambda *_: None)
    saved, chosen = corrupt.Saved(tmp_path), random.Random(2)
    outcomes = {corrupt.of_values("int8", chosen, saved) for _ in range(300)}
    assert "WRONG, and check says nothing" in outcomes


@needs_int8
def test_a_race_is_counted_where_states_share_what_they_write(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(room.Room, "claim", lambda *_: True)
    monkeypatch.setattr(audit, "find_mismatch", lambda *_: None)
    monkeypatch.setattr(prepared, "find_mismatch", lambda *_: None)
    counts = race.run(8, 1, screen="int8")
    assert defects(counts)


def test_half_a_change_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(bank: PrototypeBank, *_: object) -> None:
        bank._state.collection.ids._length -= 1

    monkeypatch.setattr(PrototypeBank, "remove", half)
    monkeypatch.setattr(interrupt, "CHANGES", {"remove": interrupt.CHANGES["remove"]})
    assert defects(interrupt.run(2, 1, tmp_path))


def test_a_wrong_answer_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    original = extremes._raw

    def wrong(*arguments: object) -> object:
        scores, indices = original(*arguments)
        return scores, indices.flip(0)

    monkeypatch.setattr(extremes, "_raw", wrong)
    assert defects(extremes.run(10, 1))
