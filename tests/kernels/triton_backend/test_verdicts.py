"""Which verdicts of earlier processes are believed."""

import json
import os
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from programs import in_threads

pytest.importorskip("triton")

from flashmatch.kernels.triton_backend import chips
from flashmatch.kernels.triton_backend.selfcheck import verdict_file, verdicts
from flashmatch.kernels.triton_backend.selfcheck.checks import all_checks, variants

CPU = torch.device("cpu")
FIRST, SECOND = variants.defaults(chips.chip(CPU))[:2]


@pytest.fixture
def path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The file of a card of which one variant is known to be right."""
    monkeypatch.setenv("FLASHMATCH_CACHE", str(tmp_path))
    verdict_file.add(CPU, ["one"])
    return verdict_file.path_for(CPU)


def test_what_passed_is_read_again_and_added_to(path: Path) -> None:
    assert path.parent.name == "flashmatch"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    verdict_file.add(CPU, ["two", "three"])
    assert verdict_file.read(CPU) == {"one", "two", "three"}


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def _claimed(path: Path) -> None:
    path.write_text(path.read_text().replace('"one"', '"two"'))


def _of_another(name: str) -> Callable[[Path], None]:
    def changed(path: Path) -> None:
        content = json.loads(path.read_text())
        content["origin"][name] = "another"
        path.write_text(json.dumps(content))

    return changed


def _writable(path: Path) -> None:
    path.chmod(0o620)


def _replaced(text: str) -> Callable[[Path], None]:
    return lambda path: (path.write_text(text), None)[1]


def _a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    "spoil",
    [
        _cut, _claimed, _writable, _a_folder, *map(_replaced, ("", "[]", "{}", "[" * 10_000)),
        *map(_of_another, ("device", "uuid", "driver", "torch", "triton", "kernels")),
    ],
)  # fmt: skip
def test_a_file_that_is_not_ours_whole_and_of_now_does_not_count(
    spoil: Callable[[Path], None], path: Path
) -> None:
    spoil(path)
    assert verdict_file.read(CPU) == set()
    verdict_file.add(CPU, ["two"])
    assert verdict_file.read(CPU) in ({"two"}, set())


def test_a_file_of_another_user_does_not_count(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert verdict_file.read(CPU) == set()


@pytest.mark.parametrize("name", ["torch", "triton"])
def test_another_version_does_not_count(
    name: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pytest.importorskip(name), "__version__", "99")
    assert verdict_file.read(CPU) == set()


def test_another_driver_does_not_count(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = chips.identity(CPU)
    monkeypatch.setattr(chips, "identity", lambda device: card | {"driver": "later"})
    assert verdict_file.path_for(CPU) == path
    assert verdict_file.read(CPU) == set()


def test_where_nothing_can_be_written_nothing_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FLASHMATCH_CACHE", str(tmp_path / "file"))
    verdict_file.add(CPU, ["one"])
    assert verdict_file.read(CPU) == set()


def test_each_variant_is_checked_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In a process, and by processes that follow; what failed, by each of them."""
    monkeypatch.setenv("FLASHMATCH_CACHE", str(tmp_path))
    checked, wrong = [], {}
    monkeypatch.setattr(
        all_checks, "failures", lambda v, device: checked.append(v) or wrong.get(v, [])
    )
    for _ in range(2):
        monkeypatch.setattr(verdicts, "_verdicts", {})
        for _ in range(2):
            assert verdicts.why_unproven(CPU, [FIRST]) == ""
    assert checked == [FIRST]
    wrong[SECOND] = ["wrong"]
    for _ in range(2):
        monkeypatch.setattr(verdicts, "_verdicts", {})
        with pytest.warns(RuntimeWarning, match="wrong"):
            assert verdicts.why_unproven(CPU, [FIRST, SECOND]) == "wrong"
        assert verdicts.why_unproven(CPU, [FIRST]) == "wrong"
    assert checked == [FIRST, SECOND, SECOND]


def test_threads_that_come_together_check_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FLASHMATCH_CACHE", str(tmp_path))
    monkeypatch.setattr(verdicts, "_verdicts", {})
    checked, inside = [], threading.Barrier(2)

    def slow(variant: variants.Variant, device: torch.device) -> list[str]:
        checked.append(variant)
        inside.wait(60)  # the other thread has asked, and waits for its turn
        time.sleep(0.2)
        return []

    def ask(first: bool) -> str:
        if not first:
            inside.wait(60)
        return verdicts.why_unproven(CPU, [FIRST])

    monkeypatch.setattr(all_checks, "failures", slow)
    assert in_threads(ask, [True, False]) == ["", ""]
    assert checked == [FIRST]


def test_nothing_is_checked_while_a_stream_is_captured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FLASHMATCH_CACHE", str(tmp_path))
    monkeypatch.setattr(verdicts, "_verdicts", {})
    monkeypatch.setattr(all_checks, "failures", lambda v, device: [])
    with monkeypatch.context() as patch:
        patch.setattr(verdicts, "is_captured", lambda device: True)
        assert verdicts.why_unproven(CPU, [FIRST]) == verdicts.UNCHECKED
        assert verdicts.why_unproven(CPU, [FIRST]) == verdicts.UNCHECKED
    assert verdicts.why_unproven(CPU, [FIRST]) == ""
