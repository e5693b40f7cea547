"""Files that appear whole or not at all, whoever else writes, and whenever the process dies."""

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_ALONE = os.O_CREAT | os.O_EXCL | os.O_WRONLY
for _flag in ("O_NOFOLLOW", "O_CLOEXEC", "O_BINARY"):
    _ALONE |= getattr(os, _flag, 0)


@contextmanager
def whole_file(path: str | os.PathLike, argument: str = "path") -> Iterator[BinaryIO]:
    """What to write to; when the block ends, ``path`` is a file of just that, on the disk.

    Until then, and where the block raises, ``path`` is what it was. The content lies beside it
    meanwhile, under a name that nobody can foresee. A file that is replaced leaves its mode, and
    its owner where that is allowed; a link to it stays a link.

    Raises:
        ValueError: ``path`` is a folder, a device or the like.
        OSError: of the system's, naming ``path``.
    """
    target = Path(os.path.realpath(path))
    partial = target.with_name(f".{secrets.token_hex(8)}.partial")
    try:
        before = _status(target)
        if before is not None and not stat.S_ISREG(before.st_mode):
            raise ValueError(f"{argument} must be a regular file, or none yet; got {str(path)!r}")
        mode = 0o666 if before is None else stat.S_IMODE(before.st_mode)
        with open(os.open(partial, _ALONE, mode), "wb") as file:
            yield file
            file.flush()
            _take_over(file.fileno(), before)
            os.fsync(file.fileno())
        os.replace(partial, target)
        _sync(target.parent)
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(partial)):
            error.filename = str(path)  # nobody but us knows the other name
        raise
    finally:
        partial.unlink(missing_ok=True)


def _status(path: Path) -> os.stat_result | None:
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None


def _take_over(file: int, before: os.stat_result | None) -> None:
    if before is None or os.name != "posix":
        return
    mine = os.fstat(file)
    if (mine.st_uid, mine.st_gid) != (before.st_uid, before.st_gid):
        with suppress(PermissionError):
            os.fchown(file, before.st_uid, before.st_gid)
    os.fchmod(file, stat.S_IMODE(before.st_mode))


def _sync(folder: Path) -> None:
    """So that the new name, too, outlasts a loss of power."""
    if os.name != "posix":  # elsewhere folders cannot be opened
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
