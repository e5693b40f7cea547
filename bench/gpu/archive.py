"""What leaves the machine: one archive, one table, one log; and an archive taken up again.

The archive has the folder of results as it is, and Triton's compiled kernels where they fit.
"""

import os
import tarfile
from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path

from . import kernel_cache

ARCHIVE, TABLE, LOG, BARS = "gpu.tar.gz", "table.txt", "log.txt", "bars.txt"
OUT, TRITON, CACHE = "out", "triton", "cache"  # folders beside those of the parts
REHEARSED = "rehearsed"  # a file: nothing here was measured
MOST_BYTES = 15 * 2**20
LINES = 200  # of each part's log


def hand_out(folder: Path, out: Path, table: str, parts: Sequence[str]) -> None:
    """Write the three files anew, each of them whole or not at all."""
    out.mkdir(parents=True, exist_ok=True)
    _write(out / TABLE, f"{table}\n".encode())
    _write(out / LOG, _log(folder, parts).encode())
    results = [path for path in _files(folder) if _top(path, folder) not in (OUT, TRITON)]
    kernels = [path for path in _files(folder / TRITON) if path.suffix in kernel_cache.LOADED]
    packed = _packed(folder, [*results, *kernels])
    if len(packed) > MOST_BYTES:
        packed = _packed(folder, results)
    _write(out / ARCHIVE, packed)


def take_up(archive: Path, folder: Path, rehearsed: bool) -> str:
    """Unpack what the folder lacks, part by part, kernel by kernel; say what was taken up.

    Raises ValueError for an archive of a rehearsal where measuring is meant, and the reverse.
    """
    with tarfile.open(archive) as packed:
        members = [member for member in packed if member.isfile()]
        if any(".." in Path(m.name).parts or Path(m.name).is_absolute() for m in members):
            raise ValueError(f"{archive} has names that lead out of a folder")
        if (REHEARSED in (m.name for m in members)) != rehearsed:
            raise ValueError(f"{archive} is {'not ' * rehearsed}of a rehearsal: not taken up")
        there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        there -= {TRITON, CACHE}
        absent = [
            member
            for member in members
            if Path(member.name).parts[0] not in there and not (folder / member.name).exists()
        ]
        for member in absent:
            content = packed.extractfile(member)
            assert content is not None
            target = folder / member.name
            target.parent.mkdir(parents=True, exist_ok=True)
            _write(target, kernel_cache.placed(target, content.read()))
    parts = {m.name.split("/")[0] for m in absent if m.name.endswith("/part.json")}
    return f"taken up from {archive}: {', '.join(sorted(parts)) or 'nothing'}"


def _log(folder: Path, parts: Sequence[str]) -> str:
    """The end of every part's log, in the order of the parts."""
    texts = []
    for name in parts:
        path = folder / name / LOG
        if path.is_file():
            lines = path.read_text(errors="replace").splitlines()
            cut = [f"... {len(lines) - LINES} lines, in {ARCHIVE}"] if len(lines) > LINES else []
            texts.append("\n".join([f"== {name}", *cut, *lines[-LINES:], ""]))
    return "\n".join(texts)


def _packed(folder: Path, paths: Iterable[Path]) -> bytes:
    packed = BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=6) as file:
        for path in paths:
            file.add(path, str(path.relative_to(folder)), recursive=False)
    return packed.getvalue()


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _top(path: Path, folder: Path) -> str:
    return path.relative_to(folder).parts[0]


def _write(path: Path, content: bytes) -> None:
    """Under another name first: nobody reads half a file."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_bytes(content)
    os.replace(unfinished, path)
