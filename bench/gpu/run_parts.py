"""What `make gpu` does on a CUDA machine: every part a process, then one short table.

`python bench gpu` is the same. Only torch, triton, numpy and pytest are needed, and no network. A
part that crashes or hangs leaves its log and silences no other. Each part's log and rows are in its
folder under --results (build/gpu), and copied to $OUT where that is set, so that parts can be run
one by one and the table still shows them all.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from measuring.links import ROOT, link

from .parts import BY_NAME, Asked, Part, listing, survivors

FOLDER = ROOT / "build" / "gpu"
LEAST_MINUTES = 0.2  # a part is not begun with less
GRACE_SECONDS = 20.0  # from asking a part to stop to ending it
LINES = {True: 3, False: 25}  # of a part's log on the console: where it went well, and not


@dataclass(frozen=True)
class Outcome:
    """What became of a part."""

    name: str
    code: int
    minutes: float
    verdict: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    names = list(BY_NAME)
    parser.add_argument("--part", choices=names, action="append", metavar="NAME", help="only this")
    parser.add_argument("--list", action="store_true", help="the parts and their minutes")
    parser.add_argument("--minutes", type=float, help="for all parts together; the sum of theirs")
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
    """All parts asked for, one after the other, within the minutes; then the table."""
    if arguments.list:
        print(listing())
        return 0
    folder = (arguments.results or FOLDER).resolve()
    if arguments.record:
        return _record(folder)
    chosen = [BY_NAME[name] for name in arguments.part or BY_NAME]
    if arguments.dry_run:
        for part in chosen:
            print(f"{part.name}: {_command_line(part, folder, part.minutes, arguments.providers)}")
        return 0
    reason = no_device()
    minutes = arguments.minutes or sum(part.minutes for part in chosen)
    end = time.monotonic() + 60 * minutes
    outcomes = []
    for part in chosen:
        if part.command is None:
            continue
        left = (end - time.monotonic()) / 60
        outcomes.append(run_part(part, folder, left, arguments.providers, reason))
    wanted = [name for name in arguments.part or () if BY_NAME[name].command is None]
    print("\n" + _read_parts(folder, wanted or ["table"]), flush=True)
    return 1 if any(outcome.code for outcome in outcomes) else 0


def run_part(
    part: Part, folder: Path, left: float, providers: Sequence[str] = (), reason: str | None = None
) -> Outcome:
    """Run one part within ``left`` minutes and its own; keep its outcome beside its log."""
    own = folder / part.name
    if reason:
        print(f"{part.name}: {reason}", flush=True)
        return Outcome(part.name, 0, 0.0, reason)
    shutil.rmtree(own, ignore_errors=True)
    own.mkdir(parents=True)
    minutes, start = min(part.minutes, left), time.monotonic()
    if minutes < LEAST_MINUTES:
        code, verdict = 1, "not run: no time left"
    else:
        print(f"\n== {part.name}: {part.what} (at most {minutes:.1f} min)", flush=True)
        try:
            code, verdict = _run(part, folder, minutes, providers)
        except FileNotFoundError as missing:
            code, verdict = 0, str(missing)
        except Exception as error:
            code, verdict = 1, f"could not be started: {type(error).__name__}: {error}"
    outcome = Outcome(part.name, code, round((time.monotonic() - start) / 60, 2), verdict)
    (own / "part.json").write_text(json.dumps(asdict(outcome)))
    _print_tail(own / "log.txt", verdict == "ok")
    print(f"{part.name}: {verdict}; {outcome.minutes:.1f} min", flush=True)
    _hand_out(own, part.name)
    return outcome


def _run(part: Part, folder: Path, minutes: float, providers: Sequence[str]) -> tuple[int, str]:
    command = _command(part, folder, minutes, providers)
    with (folder / part.name / "log.txt").open("w") as log:
        print("$", *command, file=log, flush=True)
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=_environment(part),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(60 * minutes)
        except subprocess.TimeoutExpired:
            _end(process)
            return 124, f"stopped after {minutes:.1f} min"
        except BaseException:
            _end(process)
            raise
    if code in part.fine:
        return 0, "ok" if code == 0 else "nothing to run"
    if code < 0:
        return code, f"crashed: {signal.Signals(-code).name}"
    return code, f"failed ({code})"


def _end(process: subprocess.Popen) -> None:
    """Ask first: pytest then says what it found so far."""
    for how, seconds in ((signal.SIGINT, GRACE_SECONDS), (signal.SIGKILL, GRACE_SECONDS)):
        try:
            os.killpg(process.pid, how)
            process.wait(seconds)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def _command(part: Part, folder: Path, minutes: float, providers: Sequence[str]) -> list[str]:
    named = list(providers)
    if part.name.startswith("bench-") and not named:
        named = survivors(folder)
    return part.arguments(Asked(folder / part.name, minutes, named), sys.executable)


def _command_line(part: Part, folder: Path, minutes: float, providers: Sequence[str]) -> str:
    if part.command is None:
        return "reads what the others wrote"
    try:
        return " ".join(_command(part, folder, minutes, providers))
    except FileNotFoundError as missing:
        return str(missing)


def _environment(part: Part) -> dict[str, str]:
    """With flashmatch importable even where it is not installed."""
    path = os.pathsep.join(filter(None, [str(link()), os.environ.get("PYTHONPATH")]))
    return {
        **os.environ,
        "PYTHONSAFEPATH": "1",
        "PYTHONPATH": path,
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # else JAX takes most of the memory from all
        **part.environment,
    }


def _print_tail(log: Path, well: bool) -> None:
    lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
    for line in lines[-LINES[well] :]:
        print(f"   {line[:180]}")


def _hand_out(own: Path, name: str) -> None:
    """To $OUT, which a borrowed machine sends back."""
    if out := os.environ.get("OUT"):
        shutil.copytree(own, Path(out) / "gpu" / name, dirs_exist_ok=True)


def _read_parts(folder: Path, names: Sequence[str]) -> str:
    """The parts that only read; one that fails says so."""
    texts = []
    for name in names:
        try:
            texts.append(_reader(name)(folder))
        except Exception as error:
            texts.append(f"{name}: could not be made: {type(error).__name__}: {error}")
    text = "\n\n".join(texts)
    if out := os.environ.get("OUT"):
        (Path(out) / "gpu").mkdir(parents=True, exist_ok=True)
        (Path(out) / "gpu" / "table.txt").write_text(text)
    return text


def _reader(name: str) -> Callable[[Path], str]:
    if name == "bars":
        from .bars import report as reader
    else:
        from .table import table as reader
    return reader


def _record(folder: Path) -> int:
    """Append the benchmark's rows to bench/results, once they are there to stay."""
    from measuring import ledger

    for path in sorted(folder.glob("bench-*/*.csv")):
        rows = ledger.read(path)
        print(f"{len(rows)} rows of {path.parent.name} added to {ledger.append(rows)}")
    return 0
