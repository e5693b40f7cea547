"""What `make gpu` does on a CUDA machine: every part a process, then one short table.

`python3 bench gpu` is the same. Only torch, triton, numpy and pytest are needed, and no network. A
part that crashes, hangs or runs out of memory leaves its log and silences no other. Each part's log
and rows are in its folder under --results (build/gpu). After every part, one archive, one table and
one log are written to $OUT, or else to the folder `out` beside the parts. The next slice takes the
archive up where the results are absent, on this machine or another.
"""

import argparse
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from measuring.links import ROOT, link

from . import archive, kernel_cache, part_process
from .part_process import OK, UNKNOWN, Outcome, before_in, kept_in
from .parts import BY_NAME, MINUTES, SLICES, Asked, Part, listing, survivors

FOLDER = ROOT / "build" / "gpu"
REHEARSAL = ROOT / "build" / "gpu-rehearsal"
LEAST_MINUTES = 0.05  # a part is not begun with less: Python and torch take as long to start
NO_TIME = "not run: no time left"
KEPT_BACK = 0.02  # of a slice's time, for the archives after its parts
TAIL = {True: 3, False: 25}  # lines of a part's log on the console: where it went well, and not


@dataclass(frozen=True)
class Session:
    """What all parts of a run have in common."""

    folder: Path
    providers: Sequence[str] = ()
    rehearsed: bool = False
    again: bool = True  # also what went well before
    commit: str = UNKNOWN
    device: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--slice", choices=SLICES, action="append", help="its parts; without, A, then B, then C"
    )
    names = list(BY_NAME)
    parser.add_argument("--part", choices=names, action="append", metavar="NAME", help="only this")
    parser.add_argument("--list", action="store_true", help="the parts and their minutes")
    parser.add_argument(
        "--minutes", type=float, help=f"of each slice, {MINUTES:g}; of the parts named, their own"
    )
    parser.add_argument("--again", action="store_true", help="also parts that went well before")
    parser.add_argument("--from", dest="archive", type=Path, help="results to take up: gpu.tar.gz")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU; measures nothing")
    parser.add_argument("--results", type=Path, help="folder of logs and rows; build/gpu")
    parser.add_argument("--providers", nargs="+", metavar="PART_OF_NAME", default=[])
    parser.add_argument("--dry-run", action="store_true", help="print the commands, run nothing")
    parser.add_argument("--record", action="store_true", help="add the rows to bench/results")


def no_device() -> str | None:
    """Why there is nothing to run on, or None."""
    import torch

    if torch.cuda.is_available():
        return None
    return "no CUDA device: nothing was run, nothing is measured"


def main(arguments: argparse.Namespace) -> int:
    """All parts asked for, slice by slice, each within its minutes; then the table."""
    if arguments.list:
        print(listing())
        return 0
    folder = (arguments.results or (REHEARSAL if arguments.rehearse else FOLDER)).resolve()
    if arguments.record:
        return _record(folder, arguments.rehearse)
    runs = _runs(arguments)
    session = Session(
        folder, arguments.providers, arguments.rehearse, arguments.again or bool(arguments.part)
    )
    if arguments.dry_run:
        for part in (part for run in runs for part in run):
            print(f"{part.name}: {_command_line(part, session, part.minutes)}")
        return 0
    if not arguments.rehearse and (reason := no_device()):
        for part in (part for run in runs for part in run if part.command):
            print(f"{part.name}: {reason}")
        return 0
    if refusal := _prepare(session, arguments.archive):
        print(refusal)
        return 2
    session = _placed(session)
    outcomes = [o for run in runs for o in _run_slice(run, arguments.minutes, session)]
    readers = [part.name for run in runs for part in run if part.command is None]
    print("\n" + _read_parts(folder, dict.fromkeys([*readers, "table"])), flush=True)
    return 1 if any(outcome.code for outcome in outcomes) else 0


def _runs(arguments: argparse.Namespace) -> list[list[Part]]:
    """The parts that are named, as one run, or a run for each slice."""
    if arguments.part:
        return [[BY_NAME[name] for name in arguments.part]]
    named = arguments.slice or SLICES
    return [[part for part in BY_NAME.values() if part.slice == name] for name in named]


def _prepare(session: Session, given: Path | None) -> str | None:
    """Make the folder and take up earlier results; or say why this is refused."""
    folder, marker = session.folder, session.folder / archive.REHEARSED
    begun = any(folder.glob("*/part.json"))
    if begun and marker.exists() != session.rehearsed:
        return f"{folder} has {'measured' if session.rehearsed else 'rehearsed'} results"
    found = given or folder / archive.OUT / archive.ARCHIVE
    try:
        if given or (found.is_file() and not begun):
            print(archive.take_up(found, folder, session.rehearsed))
    except (OSError, ValueError, archive.tarfile.TarError) as error:
        if given:
            return f"{given} cannot be taken up: {error}"
        print(f"{found} is not taken up: {error}")
    folder.mkdir(parents=True, exist_ok=True)
    kernel_cache.relocate(folder / archive.TRITON)  # it may have been carried here
    if session.rehearsed:
        marker.write_text("nothing in this folder was measured\n")
    return None


def _placed(session: Session) -> Session:
    """With the commit and the device, which say whether earlier results are of the same."""
    try:
        from measuring import ledger

        commit = ledger.commit()
    except Exception:  # a checkout that is broken there has parts that say so
        commit = UNKNOWN
    import torch

    name = "rehearsed" if session.rehearsed else torch.cuda.get_device_name()
    return replace(session, commit=commit, device=name)


def _run_slice(parts: Sequence[Part], minutes: float | None, session: Session) -> list[Outcome]:
    """One part after the other; what is left of the time is shared by those that are left."""
    own = sum(part.minutes for part in parts)
    end = time.monotonic() + 60 * (minutes or own) * (1 - KEPT_BACK)
    waiting = [part for part in parts if part.command and not _is_done(part, session)]
    outcomes = []
    for i, part in enumerate(waiting):
        share = part.minutes / sum(later.minutes for later in waiting[i:])
        outcomes.append(run_part(part, session, share * (end - time.monotonic()) / 60))
        _hand_out(session.folder)
    return outcomes


def _is_done(part: Part, session: Session) -> bool:
    """Whether it went well before, on this commit and device; says so."""
    before = before_in(session.folder / part.name)
    if session.again or before is None or before.verdict != OK or not _is_same(before, session):
        return False
    print(f"{part.name}: ok before, not run again")
    return True


def _is_same(before: Outcome, session: Session) -> bool:
    """Of one device and one commit, which is not known where files were changed after it."""
    known = session.commit != UNKNOWN and not session.commit.endswith("+")
    return known and (before.commit, before.device) == (session.commit, session.device)


def run_part(part: Part, session: Session, minutes: float) -> Outcome:
    """Run one part within the minutes; keep its outcome beside its log, and rows of the same."""
    own = session.folder / part.name
    before = before_in(own)
    if minutes < LEAST_MINUTES:
        print(f"{part.name}: {NO_TIME}", flush=True)
        return kept_in(own, before or _outcome(part, session, 1, 0.0, NO_TIME))
    if before is None or not _is_same(before, session):
        shutil.rmtree(own, ignore_errors=True)
    own.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    print(f"\n== {part.name}: {part.what} (at most {minutes:.1f} min)", flush=True)
    try:
        command = _command(part, session, minutes)
        log, environment = own / archive.LOG, _environment(part, session)
        fine = (*part.fine, *((5,) if session.rehearsed else ()))
        code, verdict = part_process.run(command, log, environment, 60 * minutes, fine)
    except FileNotFoundError as missing:
        code, verdict = 0, str(missing)
    except Exception as error:
        code, verdict = 1, f"could not be started: {type(error).__name__}: {error}"
    spent = round((time.monotonic() - begun) / 60, 2)
    outcome = _outcome(part, session, code, spent, verdict)
    _print_tail(own / archive.LOG, verdict == OK)
    print(f"{part.name}: {verdict}; {spent:.1f} min", flush=True)
    return kept_in(own, outcome)


def _outcome(part: Part, session: Session, code: int, minutes: float, verdict: str) -> Outcome:
    return Outcome(part.name, code, minutes, verdict, session.commit, session.device)


def _command(part: Part, session: Session, minutes: float) -> list[str]:
    named = list(session.providers)
    if part.name.startswith("bench-") and not named:
        named = survivors(session.folder)
    own = session.folder / part.name
    return part.arguments(Asked(own, minutes, named, session.rehearsed), sys.executable)


def _command_line(part: Part, session: Session, minutes: float) -> str:
    if part.command is None:
        return "reads what the others wrote"
    try:
        return " ".join(_command(part, session, minutes))
    except FileNotFoundError as missing:
        return str(missing)


def _environment(part: Part, session: Session) -> dict[str, str]:
    """With flashmatch importable even where it is not installed, and caches that can be carried."""
    path = os.pathsep.join(filter(None, [str(link()), os.environ.get("PYTHONPATH")]))
    interpreted = {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"} if session.rehearsed else {}
    return {
        "TRITON_CACHE_DIR": str(session.folder / archive.TRITON),
        **os.environ,
        "FLASHMATCH_CACHE": str(session.folder / archive.CACHE),
        "PYTHONSAFEPATH": "1",
        "PYTHONPATH": path,
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # else JAX takes most of the memory from all
        **interpreted,
        **part.environment,
    }


def _print_tail(log: Path, well: bool) -> None:
    lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
    for line in lines[-TAIL[well] :]:
        print(f"   {line[:180]}")


def _hand_out(folder: Path) -> None:
    """To $OUT, which a borrowed machine sends back; what fails here ends no slice."""
    try:
        (folder / archive.BARS).write_text(_read_parts(folder, ["bars"]) + "\n")
        out = Path(os.environ.get("OUT") or folder / archive.OUT)
        archive.hand_out(folder, out, _read_parts(folder, ["table"]), list(BY_NAME))
    except OSError as error:
        print(f"the archive could not be written: {error}", flush=True)


def _read_parts(folder: Path, names: Iterable[str]) -> str:
    """The parts that only read; one that fails says so."""
    texts = []
    for name in names:
        try:
            texts.append(_reader(name)(folder))
        except Exception as error:
            texts.append(f"{name}: could not be made: {type(error).__name__}: {error}")
    return "\n\n".join(texts)


def _reader(name: str) -> Callable[[Path], str]:
    if name == "bars":
        from .bars import report as reader
    else:
        from .table import table as reader
    return reader


def _record(folder: Path, rehearsed: bool) -> int:
    """Append the benchmark's rows to bench/results, once they are there to stay."""
    from measuring import ledger

    if rehearsed or (folder / archive.REHEARSED).exists():
        print("rehearsed rows are no measurements: nothing is recorded")
        return 2
    for path in sorted(folder.glob("bench-*/*.csv")):
        rows = ledger.read(path)
        print(f"{len(rows)} rows of {path.parent.name} added to {ledger.append(rows)}")
    return 0
