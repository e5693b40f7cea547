"""The parts of `bench gpu`, tried without a device: each runs, ends, and says how."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from programs import output_of
from rows import row
from slices import parsed, stub

from gpu import part_process, parts, run_parts
from gpu.part_process import Outcome
from gpu.parts import Asked, Part
from gpu.run_parts import Session
from measuring import ledger, shapes

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.usefixtures("no_side_effects")


def run(part: Part, folder: Path, minutes: float = 1.0) -> Outcome:
    return run_parts.run_part(part, Session(folder), minutes)


def test_the_parts_of_a_slice_fit_its_minutes_and_are_listed() -> None:
    for name in parts.SLICES:
        own = [part for part in parts.PARTS if part.slice == name]
        assert sum(part.minutes for part in own) == parts.MINUTES <= 9, name
    assert [p.name for p in parts.PARTS if p.slice not in parts.SLICES] == ["table"]
    assert len(parts.BY_NAME) == len(parts.PARTS)
    lines = [line.split() for line in parts.listing().splitlines()]
    assert [line[0] for line in lines] == list(parts.BY_NAME)
    assert [line[1] for line in lines[:-1]] == [part.slice for part in parts.PARTS[:-1]]


def test_commands_of_the_parts(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(parts.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(parts, "find_spec", lambda name: name == "xdist")
    asked = Asked(tmp_path, 4.0, ["faiss"])

    def command(name: str, asked: Asked = asked) -> list[str]:
        return parts.BY_NAME[name].arguments(asked, "py")

    for tool in ("memcheck", "racecheck", "initcheck"):
        words = command(tool)
        assert words[:3] == ["/bin/compute-sanitizer", "--tool", tool]
        assert words[words.index("py") + 2 :][:2] == ["probe", "search"]
    k = command("bench-k")
    assert [str(shape) for shape in shapes.GPU_SETS["k"]] == k[k.index("--shapes") + 1 :][:12]
    assert k[k.index("--providers") + 1] == "faiss"
    assert k[k.index("--minutes") + 1] == "3.400"
    assert command("correctness")[:4] == ["py", "-m", "pytest", str(ROOT / "tests" / "device")]
    assert command("lines")[3] == str(ROOT / "tests" / "device" / "test_device_torch.py")
    assert command("lines")[-2:] == ["-n", "8"]
    assert "-n" not in command("alone")
    assert all(f"--ignore={path}" in command("correctness") for path in command("alone")[3:5])
    monkeypatch.setattr(parts, "find_spec", lambda name: None)
    assert "-n" not in command("lines")
    found = {kind for part in parts.PARTS for kind in _probe_kinds(part, asked)}
    assert found == {*parts.PROBES}
    rehearsed = replace(asked, rehearsed=True)
    assert command("stages", rehearsed)[-3:] == ["--device", "cpu", "--tiny"]
    large = command("bench-large", rehearsed)
    assert large[large.index("--device") + 1] == "cpu"
    assert large[large.index("--shapes") + 1 :][:2] == ["8x500x32/3/cosine/float32", "--providers"]


def _probe_kinds(part: Part, asked: Asked) -> list[str]:
    words = part.arguments(asked, "py") if part.command else []
    return [words[words.index("probe") + 1]] if "probe" in words else []


def test_every_set_of_shapes_has_its_part() -> None:
    assert [f"bench-{name}" for name in shapes.GPU_SETS] == [
        name for name in parts.BY_NAME if name.startswith("bench-")
    ]
    assert len(set(shapes.GPU)) == len(shapes.GPU)
    k, channels = shapes.GPU_SETS["k"], (*shapes.GPU_SETS["channels"], *shapes.GPU_SETS["k"])
    assert {s.k for s in k} == {1, 10, 100, 1000}
    dtypes = {"float32", "float16", "bfloat16"}
    for C in (64, 128, 512, 768, 1536):
        assert {s.dtype for s in channels if (s.Q, s.C) == (1024, C)} == dtypes


NO_MEMORY = "killed (SIGKILL), as for want of memory"


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        ("print('fine')", "ok"),
        ("raise SystemExit(3)", "failed (3)"),
        ("1 / 0", "failed (1)"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "crashed: SIGSEGV"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", NO_MEMORY),
        ("raise SystemExit(137)", NO_MEMORY),
        ("class OutOfMemoryError(RuntimeError): pass\nraise OutOfMemoryError('CUDA out of memory')",
         "failed (1): out of memory"),
        ("print('3 minutes are over; not measured: 1x2x3, b')",
         "out of time; not measured: 1x2x3, b"),
        ("print('3 minutes are over; not measured: b'); raise SystemExit(1)",
         "failed (1): out of time; not measured: b"),
        ("print('==== 2 failed, 31 passed, 1 warning in 3.20s ====='); raise SystemExit(1)",
         "failed (1): 2 failed, 31 passed, 1 warning"),
    ],
)  # fmt: skip
def test_a_part_says_how_it_ended(code: str, verdict: str, tmp_path: Path, capsys) -> None:
    outcome = run(stub(code), tmp_path)
    assert outcome.verdict == verdict
    assert (outcome.code == 0) == verdict.startswith(("ok", "out of time"))
    assert part_process.before_in(tmp_path / "stub") == outcome
    if code == "1 / 0":
        assert "ZeroDivisionError" in capsys.readouterr().out


def test_no_tests_may_be_fine(tmp_path: Path) -> None:
    outcome = run(stub("raise SystemExit(5)", fine=(0, 5)), tmp_path)
    assert (outcome.code, outcome.verdict) == (0, "nothing to run")
    assert run(stub("raise SystemExit(5)"), tmp_path).verdict == "failed (5)"
    rehearsed = Session(tmp_path, rehearsed=True)  # tests/device skips without a device
    assert run_parts.run_part(stub("raise SystemExit(5)"), rehearsed, 1).code == 0


def test_a_part_that_hangs_is_stopped_with_its_children(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(run_parts, "LEAST_MINUTES", 0)
    child = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)"
    code = f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {child!r}]); "
    code += "print(p.pid, flush=True); p.wait()"
    begun = time.monotonic()
    outcome = run(stub(code), tmp_path, 0.03)
    assert time.monotonic() - begun < 3
    assert (outcome.code, outcome.verdict) == (124, "stopped after 0.0 min")
    log = (tmp_path / "stub" / "log.txt").read_text().splitlines()
    pid = int(log[1])
    for _ in range(50):
        if not _runs(pid):
            break
        time.sleep(0.1)
    assert not _runs(pid)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def _in_the_background() -> Iterator[None]:
    """A shell has what it begins with ``&`` ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_in_the_background")
@pytest.mark.parametrize("fails", [False, True])
def test_tests_that_are_stopped_say_what_they_found(fails: bool, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(part_process, "GRACE", 0.75)  # pytest takes seconds to say it under a load
    tests = tmp_path / "test_slow.py"
    tests.write_text(
        f"import time\ndef test_one():\n    assert not {fails}\n"
        "def test_two(): pass\ndef test_three():\n    time.sleep(60)\n"
    )
    options = ["-m", "pytest", "-p", "no:cacheprovider", "-c", os.devnull, str(tests)]
    part = Part("stub", 1, "tests", lambda _: options)
    outcome = run(part, tmp_path / "results", 0.4)
    if fails:
        assert outcome.code == 1
        assert outcome.verdict == "failed: 1 failed, 1 passed; out of time"
    else:
        assert (outcome.code, outcome.verdict) == (0, "out of time: 2 passed")


def test_rows_of_the_same_commit_and_device_are_kept(tmp_path: Path) -> None:
    code = f"open({str(tmp_path / 'stub' / 'rows.csv')!r}, 'a').write('row ')"
    here = Session(tmp_path, commit="abc", device="card")
    for session, rows in ((here, 1), (here, 2), (replace(here, commit="abd"), 1)):
        run_parts.run_part(stub(code), session, 1)
        assert (tmp_path / "stub" / "rows.csv").read_text() == "row " * rows
    run_parts.run_part(stub("1 / 0"), replace(here, commit="abe"), 0.01)  # there is no time
    assert (tmp_path / "stub" / "rows.csv").exists()
    for unknown in ("unknown", "abc+"):
        for _ in range(2):
            run_parts.run_part(stub(code), replace(here, commit=unknown), 1)
        assert (tmp_path / "stub" / "rows.csv").read_text() == "row "


def test_without_a_device_each_part_says_why(monkeypatch, tmp_path: Path, capsys) -> None:
    monkeypatch.setattr(run_parts, "no_device", lambda: "no CUDA device: nothing was run")
    assert run_parts.main(parsed("--results", str(tmp_path))) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"{part.name}: no CUDA device: nothing was run" for part in parts.PARTS if part.command
    ]
    assert not list(tmp_path.iterdir())


def test_a_missing_sanitizer_is_said_and_fails_nothing(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(parts.shutil, "which", lambda _: None)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    outcome = run(parts.BY_NAME["memcheck"], tmp_path)
    assert (outcome.code, outcome.verdict) == (0, parts.MISSING)


def test_peers_that_ended_their_process_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "peers").mkdir()
    verdicts = {"ours": "not tried: no peer", "good": "agreement 1", "bad": "died (-11): boom"}
    (tmp_path / "peers" / parts.PEERS).write_text(json.dumps(verdicts))
    assert parts.survivors(tmp_path) == ["ours", "good"]
    command = run_parts._command(parts.BY_NAME["bench-k"], Session(tmp_path), 4)
    assert command[command.index("--providers") + 1 :][:3] == ["ours", "good", "--results"]
    assert parts.survivors(tmp_path / "nowhere") == []


@pytest.mark.parametrize("words", [["--list"], ["--part", "table", "--rehearse"]])
def test_runs_from_a_bare_checkout(words: list[str], tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    for name in ("bench", "kernels", "retriever", "adapters", "src"):
        shutil.copytree(ROOT / name, checkout / name)
    shutil.copy(ROOT / "pyproject.toml", checkout)
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"PYTHONSAFEPATH": "1"}
    printed = output_of(checkout / "bench", "gpu", *words, cwd=tmp_path, env=env)
    expected = {"--list": "bench-large", "--part": "no part has written"}
    assert expected[words[0]] in printed


def test_a_probe_s_clock_begins_before_torch_is_imported() -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT / 'bench')!r}); import gpu.run_parts; "
    assert output_of("-c", code + "print('torch' in sys.modules)").strip() == "False"


def test_rows_are_recorded_when_asked(monkeypatch, tmp_path: Path, capsys) -> None:
    ledger.append([row("peer"), row("other")], tmp_path / "bench-k")
    monkeypatch.setattr(ledger.append, "__defaults__", (tmp_path / "kept", ""))
    assert run_parts.main(parsed("--results", str(tmp_path), "--record")) == 0
    [path] = (tmp_path / "kept").glob("*.csv")
    assert len(ledger.read(path)) == 2
    (tmp_path / run_parts.archive.REHEARSED).touch()
    assert run_parts.main(parsed("--results", str(tmp_path), "--record")) == 2
    assert len(ledger.read(path)) == 2


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
@pytest.mark.parametrize("has_device", [True, False])
def test_make_takes_the_python_that_sees_a_device(has_device: bool, tmp_path: Path) -> None:
    """And else that of .venv, which is there already: nothing is installed."""
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / "pyproject.toml").touch()
    for path, status in (("python3", int(not has_device)), (".venv/bin/python", 1)):
        asked = f'#!/bin/sh\n[ "$1" = -c ] && exit {status}\necho "{path}: $@"\n'
        (tmp_path / path).write_text(asked)
        (tmp_path / path).chmod(0o755)
    (tmp_path / ".venv" / ".installed-dev").touch()
    command = ["make", "-f", ROOT / "Makefile", "gpu", "PYTHON=./python3", "SLICE=A C"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    taken = "./python3" if has_device else ".venv/bin/python"
    assert f"{taken.removeprefix('./')}: bench gpu --slice A --slice C" in done.stdout


def test_the_commit_may_be_given(monkeypatch) -> None:
    monkeypatch.setenv("FLASHMATCH_COMMIT", "0123456789ab")
    assert ledger.commit.__wrapped__() == "0123456789ab"
    monkeypatch.delenv("FLASHMATCH_COMMIT")
    monkeypatch.setattr(ledger, "ROOT", Path("/nowhere/at/all"))
    assert ledger.commit.__wrapped__() == "unknown"
