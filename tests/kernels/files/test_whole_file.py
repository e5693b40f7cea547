"""Files appear whole or not at all, where they were asked for, as they were."""

import errno
import os
import stat
import sys
from pathlib import Path

import pytest
import torch
from programs import in_threads

from flashmatch.kernels.files.whole_file import whole_file
from flashmatch.kernels.triton_backend import tuned_tiles
from flashmatch.retriever.files.prototype_file import dump_prototypes

posix = pytest.mark.skipif(os.name != "posix", reason="modes and links of POSIX")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file"


def write(path: Path, content: bytes) -> None:
    with whole_file(path) as file:
        file.write(content)


def test_it_appears_when_all_is_written(path: Path) -> None:
    for content in (b"first", b"second"):
        before = path.read_bytes() if path.exists() else None
        with whole_file(path) as file:
            file.write(content)
            assert (path.read_bytes() if path.exists() else None) == before
        assert path.read_bytes() == content
    assert os.listdir(path.parent) == ["file"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, ValueError, SystemExit])
@pytest.mark.parametrize("exists", [True, False])
def test_what_fails_changes_nothing(error: type, exists: bool, path: Path) -> None:
    if exists:
        write(path, b"before")

    def fail() -> None:
        with whole_file(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        fail()
    assert os.listdir(path.parent) == ["file"] * exists
    if exists:
        assert path.read_bytes() == b"before"


@posix
def test_a_new_file_has_the_mode_of_any_new_file(path: Path) -> None:
    before = os.umask(0o027)
    try:
        write(path, b"")
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
    finally:
        os.umask(before)


@posix
@pytest.mark.parametrize("mode", [0o600, 0o644, 0o664, 0o400, 0o777])
def test_a_replaced_file_leaves_its_mode(mode: int, path: Path) -> None:
    path.write_bytes(b"before")
    path.chmod(mode)
    with whole_file(path) as file:
        (beside,) = [each for each in path.parent.iterdir() if each != path]
        assert stat.S_IMODE(beside.stat().st_mode) & ~mode == 0  # meanwhile nobody else reads it
        file.write(b"after")
    assert stat.S_IMODE(path.stat().st_mode) == mode


@posix
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="gives files away")
def test_a_replaced_file_leaves_its_owner(path: Path) -> None:
    path.write_bytes(b"before")
    os.chown(path, 1234, 2345)
    path.chmod(0o600)
    write(path, b"after")
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 2345)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@posix
def test_a_link_stays_a_link(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere" / "target"
    target.parent.mkdir()
    target.write_bytes(b"before")
    path.symlink_to(target)
    write(path, b"after")
    assert path.is_symlink()
    assert target.read_bytes() == b"after"
    assert os.listdir(target.parent) == ["target"]


@posix
def test_names_meanwhile_cannot_be_foreseen(path: Path) -> None:
    names = set()
    for _ in range(20):
        with whole_file(path):
            names |= {each.name for each in path.parent.iterdir() if each != path}
    assert len(names) == 20
    assert not any(str(os.getpid()) in name for name in names)


@posix
def test_the_longest_name_can_be_written(tmp_path: Path) -> None:
    write(tmp_path / ("n" * 255), b"after")
    assert len(os.listdir(tmp_path)) == 1


@posix
def test_folders_and_devices_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo", Path("/dev/null")):
        with pytest.raises(ValueError, match=f"path must be a regular file.*{path}"):
            write(path, b"")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    assert os.listdir(tmp_path) == ["fifo"]


def test_errors_name_the_path(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError) as missing:
        write(path / "none" / "file", b"")
    assert missing.value.filename == str(path / "none" / "file")

    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left") as raised:
            write(path, b"")
    assert raised.value.filename == str(path)
    assert os.listdir(path.parent) == []

    def denied(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted", "partial", None, "file")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", denied)
        with pytest.raises(PermissionError, match="not permitted"):
            write(path, b"")
    assert os.listdir(path.parent) == []


def test_file_and_folder_reach_the_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced, fsync = [], os.fsync

    def spy(file: int) -> None:
        synced.append(stat.S_IFMT(os.fstat(file).st_mode))
        fsync(file)

    monkeypatch.setattr(os, "fsync", spy)
    write(path, b"content")
    assert synced == [stat.S_IFREG, stat.S_IFDIR][: 1 + (os.name == "posix")]


def test_many_writers_leave_one_of_their_files(path: Path) -> None:
    contents = [bytes([i]) * 200_000 for i in range(8)]

    def repeat(content: bytes) -> None:
        for _ in range(10):
            write(path, content)
            assert path.read_bytes() in contents

    in_threads(repeat, contents)
    assert path.read_bytes() in contents
    assert os.listdir(path.parent) == ["file"]


@posix
@pytest.mark.parametrize("name", ["gallery.pt", "gallery.safetensors"])
def test_every_writer_keeps_to_it(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(b"before")
    path.chmod(0o600)
    dump_prototypes(path, torch.ones(3, 2), torch.arange(3))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    tiles = tmp_path / "tiles.json"
    tiles.touch(0o600)
    tuned_tiles.write(tiles, [])
    assert stat.S_IMODE(tiles.stat().st_mode) == 0o600
    assert sorted(os.listdir(tmp_path)) == sorted([name, "tiles.json"])


if sys.platform == "linux":

    def test_a_planted_link_leads_nowhere(path: Path, tmp_path: Path) -> None:
        """Under a name that could be foreseen, the old partial file could be a link."""
        victim = tmp_path / "victim"
        victim.write_bytes(b"mine")
        planted = path.with_name(f".{path.name}.{os.getpid()}")
        planted.symlink_to(victim)
        write(path, b"content")
        assert victim.read_bytes() == b"mine"
        assert planted.is_symlink()
