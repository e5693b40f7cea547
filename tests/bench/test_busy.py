"""Searches on busy processors: gated, held to what torch takes there, and the load ends."""

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from programs import output_of

from measuring.links import ROOT
from measuring.shapes import Shape
from measuring.timing import Timing
from providers.ours import BANK, TOPK
from studies import busy
from studies.busy import Beside

TINY = Shape(3, 70, 8, 3)
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, holds processes")


@pytest.mark.parametrize(
    ("ours", "exact", "verdict"),
    [(15.0, True, "held"), (15.1, True, "missed"), (1.0, False, "missed: not exact")],
)
def test_a_bar_is_what_torch_takes_under_the_same_load(
    ours: float, exact: bool, verdict: str
) -> None:
    rival = Timing(10.0, 8.0, 12.0, 7)
    beside = Beside("a load", TINY, BANK, Timing(ours, ours, ours, 7), rival, exact)
    assert beside.cells()[-1] == verdict
    assert len(beside.cells()) == len(busy.HEAD)


@linux
def test_loops_are_there_while_it_is_timed_and_gone_after(monkeypatch: pytest.MonkeyPatch) -> None:
    def interleave(*arguments, **options):
        seen.append(loops())
        return timed(*arguments, **options)

    seen: list[set[int]] = []
    timed = busy.interleave
    monkeypatch.setattr(busy, "interleave", interleave)
    monkeypatch.setattr(busy, "SAMPLE_SECONDS", 1e-4)
    before = loops()
    found = busy.compare("a load", 2, TINY)
    assert [len(running - before) for running in seen] == [2]
    assert loops() == before
    assert [(beside.search, beside.exact) for beside in found] == [(BANK, True), (TOPK, True)]
    assert all(beside.ours.repeats == beside.torch.repeats == busy.SAMPLES for beside in found)


@linux
def test_loops_end_with_whom_they_are_beside() -> None:
    code = "import os; from studies.busy import busy; busy(1).__enter__(); os._exit(0)"
    paths = [str(ROOT / "bench"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    before = loops()
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    for _ in range(100):
        if loops() <= before:
            return
        time.sleep(0.1)
    pytest.fail("a loop went on alone")


def loops() -> set[int]:
    """The processes that never rest."""
    mark = busy.LOOP.encode()
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark in path.read_bytes():
                found.add(int(path.parent.name))
        except OSError:
            continue  # it ended meanwhile
    return found


def test_a_wrong_answer_fails_the_command(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    timing = Timing(1.0, 1.0, 1.0, 7)
    for exact in (True, False):
        found = [Beside("a load", TINY, BANK, timing, timing, exact)]
        monkeypatch.setattr(busy, "compare", lambda *_, found=found: found)
        assert busy.print_all("a load", 0, [TINY], minutes=1) == (not exact)
    assert "| missed: not exact |" in capsys.readouterr().out


@linux
def test_both_loads_have_lines_and_threads_share_a_processor() -> None:
    command = ["busy", "--loops", "1", "--shapes", str(TINY)]
    printed = output_of(ROOT / "bench", *command)
    for load in ("beside 1 busy loop", "2 threads on one processor"):
        assert printed.count(f"| {load} | {TINY.title} | flashmatch.") == 2
    assert printed.index("beside 1 busy loop") < printed.index("2 threads on one processor")


@linux
def test_a_process_is_held_before_torch_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {}

    def run(command, preexec_fn):
        given["command"] = command
        code = "import os, torch; print(len(os.sched_getaffinity(0)), torch.get_num_threads())"
        done = subprocess.run(
            [sys.executable, "-c", code], preexec_fn=preexec_fn, capture_output=True, text=True
        )
        given["seen"] = done.stdout.split()
        return done

    monkeypatch.setattr(busy, "print_all", lambda *_: 0)
    monkeypatch.setattr(busy, "subprocess", SimpleNamespace(run=run))
    assert busy.run(1, [TINY], minutes=1) == 0
    assert given["seen"] == ["1", "1"]
    assert "--held" in given["command"]
    before = torch.get_num_threads()
    try:
        assert busy.run_held([], minutes=1) == 0
        assert torch.get_num_threads() == busy.THREADS
    finally:
        torch.set_num_threads(before)
