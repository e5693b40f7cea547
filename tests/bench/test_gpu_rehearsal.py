"""Every slice from a bare checkout, on a CPU: each part runs to its end, and nothing is measured.

Kernels are interpreted, but for the warm-up, which compiles two. The sanitizer is a script that
runs what it is given; tests/device skips, for want of a device.
"""

import os
import shutil
import tarfile
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from programs import output_of

from gpu import part_process
from gpu.parts import PARTS
from measuring.timing import OVER

pytest.importorskip("triton")
ROOT = Path(__file__).resolve().parents[2]
DROPPED = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "OUT")
DROPPED += ("TRITON_CACHE_DIR", "TRITON_INTERPRET", "FLASHMATCH_CACHE")
SANITIZER = '#!/bin/sh\nshift 10\nexec "$@"\n'  # the options are ten words
MINUTES = 6.0  # of a slice, at most: a loaded machine takes several times as long as an idle one
STARTING = 6.0  # seconds, of Python and torch, before and after the slice's own clock
TESTS = ("lines", "correctness", "alone", "drawn")  # of pytest


class Slice(NamedTuple):
    folder: Path
    printed: str
    seconds: float

    @property
    def verdicts(self) -> dict[str, str]:
        found = (part_process.before_in(self.folder / part.name) for part in PARTS)
        return {outcome.name: outcome.verdict for outcome in found if outcome}

    @property
    def archive(self) -> Path:
        return self.folder / "out" / "gpu.tar.gz"

    @property
    def table(self) -> str:
        return (self.folder / "out" / "table.txt").read_text()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a GPU machine has: no .git, nothing installed."""
    folder = tmp_path_factory.mktemp("rehearsal") / "checkout"
    for name in (
        "bench",
        "kernels",
        "retriever",
        "adapters",
        "src",
        "tests/device",
        "tests/support",
    ):
        shutil.copytree(ROOT / name, folder / name)
    for name in ("pyproject.toml", "tests/conftest.py"):
        shutil.copy(ROOT / name, folder / name)
    sanitizer = folder.parent / "bin" / "compute-sanitizer"
    sanitizer.parent.mkdir()
    sanitizer.write_text(SANITIZER)
    sanitizer.chmod(0o755)
    return folder


def environment(checkout: Path) -> dict[str, str]:
    """Bytecode is kept for the next of the twenty processes, whatever holds here."""
    env = {key: value for key, value in os.environ.items() if key not in DROPPED}
    env |= {"PYTHONSAFEPATH": "1", "FLASHMATCH_COMMIT": "0123456789ab"}
    env["PYTHONPYCACHEPREFIX"] = str(checkout.parent / "bytecode")
    env["PATH"] = f"{checkout.parent / 'bin'}{os.pathsep}{env['PATH']}"
    return env


def rehearse(checkout: Path, name: str, *words: object) -> Slice:
    """The slice with results in a folder of its own."""
    folder = checkout.parent / f"results-{name}"
    options = ["--rehearse", "--slice", name, "--minutes", MINUTES, "--results", folder, *words]
    begun = time.monotonic()
    printed = output_of(
        *(checkout / "bench", "gpu", *options),
        cwd=checkout.parent,
        env=environment(checkout),
        timeout=60 * MINUTES + 5 * STARTING,
    )
    return Slice(folder, printed, time.monotonic() - begun)


@pytest.fixture(scope="module")
def first(checkout: Path) -> Slice:
    return rehearse(checkout, "A")


@pytest.fixture(scope="module")
def second(checkout: Path, first: Slice) -> Slice:
    """Elsewhere, from the archive of the first alone."""
    return rehearse(checkout, "B", "--from", first.archive)


@pytest.fixture(scope="module")
def third(checkout: Path, second: Slice) -> Slice:
    return rehearse(checkout, "C", "--from", second.archive)


def check(ran: Slice, name: str) -> None:
    """All parts came to their ends, within the minutes; three files are out."""
    assert ran.seconds < 60 * MINUTES + STARTING
    for part in PARTS:
        if part.slice == name and part.command:
            verdict = ran.verdicts[part.name]
            assert verdict in ("ok", "nothing to run") or verdict.startswith("out of time"), part
            assert (verdict == "nothing to run") == (part.name in TESTS), part
            assert f"== {part.name}\n$ " in (ran.folder / "out" / "log.txt").read_text()
    assert {path.name for path in (ran.folder / "out").iterdir()} == {
        *("gpu.tar.gz", "table.txt", "log.txt")
    }
    assert ran.table.startswith("REHEARSED on a CPU: nothing here was measured\n")
    assert "error" not in ran.table
    assert ran.table.strip() in ran.printed


def test_slice_a_compiles_checks_and_times(first: Slice) -> None:
    check(first, "A")
    assert "kernels compiled 2 of 2" in first.table
    assert "selfcheck: " in first.table
    assert "launch, empty kernel" in first.table
    with tarfile.open(first.archive) as packed:
        assert any(name.endswith(".cubin") for name in packed.getnames())


def test_slice_b_takes_up_slice_a(first: Slice, second: Slice) -> None:
    check(second, "B")
    assert first.verdicts.items() <= second.verdicts.items()
    assert "launch, empty kernel" in second.table
    assert "bank: faster than every peer at" in second.table
    kernels = [path.relative_to(first.folder) for path in first.folder.glob("triton/*/*.cubin")]
    assert len(kernels) == 2
    assert all((second.folder / path).is_file() for path in kernels)


def test_slice_c_watches_and_draws_the_bars(second: Slice, third: Slice) -> None:
    check(third, "C")
    assert second.verdicts.items() <= third.verdicts.items()
    for tool in ("memcheck", "initcheck", "racecheck"):
        log = (third.folder / tool / "log.txt").read_text()
        assert "6 of 6 searches are right" in log
    assert "flashmatch.PrototypeBank: faster than every peer at" in third.printed
    assert "memory: bank" in third.table


def test_a_part_that_is_out_of_time_stops_with_what_it_has(checkout: Path) -> None:
    env = environment(checkout) | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    options = ["--tiny", "--device", "cpu", "--minutes", 0.1]
    begun = time.monotonic()
    printed = output_of(checkout / "bench", "probe", "search", *options, env=env)
    assert time.monotonic() - begun < 30  # of 50 that all searches took, on a loaded machine
    count = printed.count(": right\n")
    assert f"{count} of {count} searches are right" in printed
    assert OVER in printed
