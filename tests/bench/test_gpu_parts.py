"""The parts of `bench gpu`, tried without a device: each runs, ends, and says how."""

import argparse
import json
import os
import shutil
import time
from pathlib import Path

import pytest
from programs import output_of
from rows import row

from gpu import parts, run_parts
from gpu.parts import Asked, Part
from measuring import ledger, links, shapes

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _no_side_effects(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Links of its own, and no $OUT of the machine's."""
    monkeypatch.setattr(links, "TREE", tmp_path / "links")
    monkeypatch.delenv("OUT", raising=False)


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    run_parts.add_arguments(parser)
    return parser.parse_args(words)


def python(code: str, name: str = "stub", minutes: float = 1.0, **fields) -> Part:
    return Part(name, minutes, "a stub", lambda _: ["-c", code], **fields)


def test_every_part_fits_a_call_of_ten_minutes_and_is_listed() -> None:
    assert all(part.minutes <= 9 for part in parts.PARTS)
    assert len(parts.BY_NAME) == len(parts.PARTS)
    lines = parts.listing().splitlines()
    assert [line.split()[0] for line in lines] == list(parts.BY_NAME)


def test_commands_of_the_parts(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(parts.shutil, "which", lambda name: f"/bin/{name}")
    asked = Asked(tmp_path, 4.0, ["faiss"])

    def command(name: str) -> list[str]:
        return parts.BY_NAME[name].arguments(asked, "py")

    for tool in ("memcheck", "racecheck", "initcheck"):
        words = command(tool)
        assert words[:3] == ["/bin/compute-sanitizer", "--tool", tool]
        assert words[words.index("py") + 2 :][:2] == ["probe", "search"]
    k = command("bench-k")
    assert [str(shape) for shape in shapes.GPU_SETS["k"]] == k[k.index("--shapes") + 1 :][:12]
    assert k[k.index("--providers") + 1] == "faiss"
    assert k[k.index("--minutes") + 1] == "3.40"
    assert command("correctness")[:3] == ["py", "-m", "pytest"]
    assert {kind for part in parts.PARTS for kind in _probe_kinds(part, asked)} == {
        *parts.PROBES
    } - {"first-call"}


def _probe_kinds(part: Part, asked: Asked) -> list[str]:
    words = part.arguments(asked, "py") if part.command else []
    return [words[words.index("probe") + 1]] if "probe" in words else []


def test_every_set_of_shapes_has_its_part() -> None:
    assert {f"bench-{name}" for name in shapes.GPU_SETS} <= set(parts.BY_NAME)
    assert len(set(shapes.GPU)) == len(shapes.GPU)
    k, channels = shapes.GPU_SETS["k"], (*shapes.GPU_SETS["channels"], *shapes.GPU_SETS["k"])
    assert {s.k for s in k} == {1, 10, 100, 1000}
    dtypes = {"float32", "float16", "bfloat16"}
    for C in (64, 128, 512, 768, 1536):
        assert {s.dtype for s in channels if (s.Q, s.C) == (1024, C)} == dtypes


def test_a_part_that_fails_crashes_or_hangs_says_so(tmp_path: Path, capsys) -> None:
    crash = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    verdicts = {
        "print('fine')": "ok",
        "raise SystemExit(3)": "failed (3)",
        "1 / 0": "failed (1)",
        crash: "crashed: SIGSEGV",
    }
    for code, verdict in verdicts.items():
        outcome = run_parts.run_part(python(code), tmp_path, 1.0)
        assert outcome.verdict == verdict
        assert (outcome.code == 0) == (verdict == "ok")
        kept = json.loads((tmp_path / "stub" / "part.json").read_text())
        assert kept["verdict"] == verdict
    assert "ZeroDivisionError" in capsys.readouterr().out
    assert run_parts.run_part(python("raise SystemExit(5)", fine=(0, 5)), tmp_path, 1).code == 0


def test_a_part_that_hangs_is_stopped_with_its_children(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(run_parts, "LEAST_MINUTES", 0)
    monkeypatch.setattr(run_parts, "GRACE_SECONDS", 0.5)
    child = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)"
    code = f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {child!r}]); "
    code += "print(p.pid, flush=True); p.wait()"
    outcome = run_parts.run_part(python(code, minutes=0.02), tmp_path, 1)
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


def test_no_part_is_begun_without_time_and_each_reports(monkeypatch, tmp_path, capsys) -> None:
    monkeypatch.setattr(run_parts, "no_device", lambda: None)
    monkeypatch.setattr(run_parts, "BY_NAME", {"a": python("pass", "a"), "b": python("1 / 0", "b")})
    arguments = parsed("--results", str(tmp_path))
    assert run_parts.main(arguments) == 1
    out = capsys.readouterr().out
    assert "a: ok" in out
    assert "b: failed (1)" in out
    arguments.minutes = 0.01
    assert run_parts.main(arguments) == 1
    assert "a: not run: no time left" in capsys.readouterr().out


def test_logs_are_handed_out(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OUT", str(tmp_path / "out"))
    run_parts.run_part(python("print('fine')"), tmp_path / "own", 1)
    assert "fine" in (tmp_path / "out" / "gpu" / "stub" / "log.txt").read_text()


def test_without_a_device_each_part_says_why(monkeypatch, tmp_path: Path, capsys) -> None:
    monkeypatch.setattr(run_parts, "no_device", lambda: "no CUDA device: nothing was run")
    assert run_parts.main(parsed("--results", str(tmp_path))) == 0
    lines = capsys.readouterr().out.splitlines()
    for part in parts.PARTS:
        if part.command:
            assert f"{part.name}: no CUDA device: nothing was run" in lines
    assert not list(tmp_path.glob("*/log.txt"))


def test_a_missing_sanitizer_is_said_and_fails_nothing(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(parts.shutil, "which", lambda _: None)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    outcome = run_parts.run_part(parts.BY_NAME["memcheck"], tmp_path, 9)
    assert (outcome.code, outcome.verdict) == (0, parts.MISSING)


def test_peers_that_ended_their_process_are_left_out(monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "peers").mkdir()
    verdicts = {"ours": "not tried: no peer", "good": "agreement 1", "bad": "died (-11): boom"}
    (tmp_path / "peers" / parts.PEERS).write_text(json.dumps(verdicts))
    assert parts.survivors(tmp_path) == ["ours", "good"]
    command = run_parts._command(parts.BY_NAME["bench-k"], tmp_path, 4, [])
    assert command[command.index("--providers") + 1 :][:3] == ["ours", "good", "--results"]
    assert parts.survivors(tmp_path / "nowhere") == []


@pytest.mark.parametrize("words", [["--list"], ["--part", "table"]])
def test_runs_from_a_bare_checkout(words: list[str], tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    for name in ("bench", "kernels", "retriever", "adapters", "src"):
        shutil.copytree(ROOT / name, checkout / name)
    shutil.copy(ROOT / "pyproject.toml", checkout)
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"PYTHONSAFEPATH": "1"}
    printed = output_of(checkout / "bench", "gpu", *words, cwd=tmp_path, env=env)
    expected = {"--list": "bench-large", "--part": "no part has written"}
    assert expected[words[0]] in printed


def test_rows_are_recorded_when_asked(monkeypatch, tmp_path: Path) -> None:
    ledger.append([row("peer"), row("other")], tmp_path / "bench-k")
    monkeypatch.setattr(ledger.append, "__defaults__", (tmp_path / "kept", ""))
    assert run_parts.main(parsed("--results", str(tmp_path), "--record")) == 0
    [path] = (tmp_path / "kept").glob("*.csv")
    assert len(ledger.read(path)) == 2
