"""One part as a process: it is asked to stop when its time is over, then ended; and how it went."""

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from measuring.links import ROOT

OK, UNKNOWN = "ok", "unknown"
KEPT = "part.json"
GRACE_SECONDS = 20.0  # from asking a part to stop to ending it, of those that it has
GRACE = 0.1  # of its seconds, at most
STOPPED = 124
_PYTEST = re.compile(r"^=+ (.*\b(?:passed|failed|skipped|errors?)\b.*) in [\d.:()hms ]+=+$")
_NO_MEMORY = ("OutOfMemoryError", "MemoryError")


@dataclass(frozen=True)
class Outcome:
    """What became of a part, and where."""

    name: str
    code: int  # 0 where nothing is wrong
    minutes: float
    verdict: str
    commit: str = UNKNOWN
    device: str = ""


def kept_in(own: Path, outcome: Outcome) -> Outcome:
    """The outcome, written to the folder of its part."""
    own.mkdir(parents=True, exist_ok=True)
    (own / KEPT).write_text(json.dumps(asdict(outcome)))
    return outcome


def before_in(own: Path) -> Outcome | None:
    """What became of the part before; None where it was not run, or that cannot be read."""
    try:
        return Outcome(**json.loads((own / KEPT).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def run(
    command: Sequence[str],
    log: Path,
    environment: Mapping[str, str],
    seconds: float,
    fine: Sequence[int] = (0,),
) -> tuple[int, str]:
    """Exit status, 0 for a part that is fine, and verdict; ends within the seconds."""
    begun = time.monotonic()
    with log.open("w") as file:
        print("$", *command, file=file, flush=True)
        with _interruptible():
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        grace = min(GRACE_SECONDS, GRACE * seconds)
        stopped = False
        try:
            process.wait(seconds - grace)
        except subprocess.TimeoutExpired:
            stopped = True
        finally:
            _end(process, grace)
    lines = log.read_text(errors="replace").splitlines()[1:]  # the first is the command
    if stopped:
        return _stopped(lines, (time.monotonic() - begun) / 60)
    return _ended(process.returncode, lines, fine)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """A shell lets what it begins in the background, and its children, ignore SIGINT."""
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _end(process: subprocess.Popen, seconds: float) -> None:
    """Ask first, pytest then says what it found so far; then end it, and its children."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)  # the workers of pytest would sleep on
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _stopped(lines: Sequence[str], minutes: float) -> tuple[int, str]:
    """Tests that were stopped have still been run; what else has to be stopped is at fault."""
    found = _tests(lines)
    if not found:
        return STOPPED, f"stopped after {minutes:.1f} min"
    if "failed" in found or "error" in found:
        return 1, f"failed: {found}; out of time"
    return 0, f"out of time: {found}"


def _ended(code: int, lines: Sequence[str], fine: Sequence[int]) -> tuple[int, str]:
    if code in fine:
        if code:
            return 0, "nothing to run"
        left = _not_begun(lines)
        return 0, f"out of time; not measured: {left}" if left else OK
    if -code == signal.SIGKILL or code == 128 + signal.SIGKILL:
        return code, "killed (SIGKILL), as for want of memory"
    if code < 0:
        return code, f"crashed: {signal.Signals(-code).name}"
    why = [f"failed ({code})"]
    if any(name in line for line in lines for name in _NO_MEMORY):
        why.append("out of memory")
    elif found := _tests(lines):
        why.append(found)
    if left := _not_begun(lines):
        why.append(f"out of time; not measured: {left}")
    return code, ": ".join(why[:2]) + "".join(f"; {more}" for more in why[2:])


def _tests(lines: Sequence[str]) -> str:
    """What pytest says at its end, or nothing."""
    found = filter(None, map(_PYTEST.match, reversed(lines)))
    return next((match[1] for match in found), "")


def _not_begun(lines: Iterable[str]) -> str:
    from measuring.timing import OVER  # and torch with it: a probe's clock begins before that

    found = (line.partition(OVER)[2] for line in lines if OVER in line)
    left = next(found, "")
    return left if len(left) <= 100 else f"{left[:100]}..."
