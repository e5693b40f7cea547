"""Slices of stubs: one part silences no other; three files are out after each, to be taken up."""

import io
import json
import shutil
import tarfile
import time
from pathlib import Path

import pytest
from slices import parsed, stub

from gpu import archive, part_process, run_parts
from gpu.parts import Part

pytestmark = pytest.mark.usefixtures("no_side_effects")
HANG = "import time; print('begun', flush=True); time.sleep(60)"
CRASH = "import os; os.abort()"
NO_MEMORY = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"


@pytest.fixture(autouse=True)
def _commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("measuring.ledger.commit", lambda: "abc")


def run(monkeypatch, folder: Path, stubs: list[Part], *words: str) -> int:
    """The exit status of a rehearsed slice A of these parts."""
    monkeypatch.setattr(run_parts, "BY_NAME", {part.name: part for part in stubs})
    monkeypatch.setattr("gpu.table.PARTS", stubs)
    named = [] if "--part" in words else ["--slice", "A"]
    return run_parts.main(parsed("--rehearse", *named, "--results", str(folder), *words))


def verdicts(folder: Path) -> dict[str, str]:
    found = map(part_process.before_in, sorted(folder.iterdir()))
    return {outcome.name: outcome.verdict for outcome in found if outcome}


def _asserts_files(out: Path, *names: str) -> str:
    """Code of a part that fails where the files of the parts before it are not out."""
    return f"""
import pathlib, tarfile
out = pathlib.Path({str(out)!r})
assert sorted(p.name for p in out.iterdir()) == ["gpu.tar.gz", "log.txt", "table.txt"]
packed = tarfile.open(out / "gpu.tar.gz").getnames()
for name in {names!r}:
    assert f"{{name}}/part.json" in packed and f"{{name}}/log.txt" in packed, packed
    assert f"== {{name}}" in (out / "log.txt").read_text()
    assert f"{{name}}: " in (out / "table.txt").read_text()
assert (out / "table.txt").read_text().startswith("REHEARSED")
"""


@pytest.mark.parametrize("elsewhere", [False, True])
def test_one_part_silences_no_other_and_the_files_are_out_after_each(
    elsewhere: bool, monkeypatch, tmp_path: Path, capsys
) -> None:
    folder = tmp_path / "results"
    out = tmp_path / "sent" if elsewhere else folder / "out"
    if elsewhere:
        monkeypatch.setenv("OUT", str(out))
    monkeypatch.setattr(run_parts, "LEAST_MINUTES", 0)
    checks = _asserts_files(out, "crash"), _asserts_files(out, "crash", "one", "hang")
    code = run(
        monkeypatch,
        folder,
        [
            stub(CRASH, "crash"),
            stub(checks[0], "one"),
            stub(HANG, "hang", 0.5),
            stub(checks[1], "three"),
            stub(NO_MEMORY, "memory"),
            stub("print('last')", "last"),
        ],
        "--minutes",
        "0.15",
    )
    assert code == 1
    assert verdicts(folder) == {
        "crash": "crashed: SIGABRT",
        "one": "ok",
        "hang": "stopped after 0.0 min",
        "three": "ok",
        "memory": "killed (SIGKILL), as for want of memory",
        "last": "ok",
    }
    assert "last: ok" in capsys.readouterr().out
    assert "last" in (out / "log.txt").read_text()


def test_the_slice_ends_in_its_time_and_what_is_left_is_shared(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(run_parts, "LEAST_MINUTES", 0)
    shares = []
    process = part_process.run

    def spy(command, log, environment, seconds, fine):
        shares.append(seconds)
        return process(command, log, environment, seconds, fine)

    monkeypatch.setattr(part_process, "run", spy)
    stubs = [stub("pass", "quick", 3), stub(HANG, "hang", 1), stub(HANG, "again", 1)]
    begun = time.monotonic()
    assert run(monkeypatch, tmp_path, stubs, "--minutes", "0.1") == 1
    assert time.monotonic() - begun < 6.5
    assert shares[0] == pytest.approx(3 / 5 * 6 * 0.98, rel=0.1)
    assert shares[1] > 2  # of 1.2 that it would have, had the first taken all of its time
    assert verdicts(tmp_path)["again"].startswith("stopped")


def test_nothing_is_begun_without_time(monkeypatch, tmp_path: Path, capsys) -> None:
    assert run(monkeypatch, tmp_path, [stub("pass", "a")], "--minutes", "0.01") == 1
    assert "a: not run: no time left" in capsys.readouterr().out
    assert verdicts(tmp_path) == {"a": "not run: no time left"}
    assert "a: not run" in (tmp_path / "out" / "table.txt").read_text()


def counted(folder: Path, name: str, after: str = "") -> Part:
    """A part that counts its runs in a file of its own, beside the results."""
    return stub(f"open({str(folder / name)!r}, 'a').write('x'); {after}", name)


def test_what_went_well_is_not_run_again_unless_asked(monkeypatch, tmp_path: Path) -> None:
    counts, folder = tmp_path / "counts", tmp_path / "results"
    counts.mkdir()
    stubs = [counted(counts, "good"), counted(counts, "bad", "1 / 0")]

    def runs(*words: str) -> tuple[int, ...]:
        run(monkeypatch, folder, stubs, *words)
        return tuple(len((counts / part.name).read_text()) for part in stubs)

    assert runs() == (1, 1)
    assert runs() == (1, 2)
    assert runs("--again") == (2, 3)
    assert runs("--part", "good") == (3, 3)
    monkeypatch.setattr("measuring.ledger.commit", lambda: "abd")
    assert runs() == (4, 4)


def test_a_slice_takes_up_another_machine_s_archive(monkeypatch, tmp_path: Path, capsys) -> None:
    counts, first, second = (tmp_path / name for name in ("counts", "first", "second"))
    counts.mkdir()
    cache = "import os, pathlib; p = pathlib.Path(os.environ['{0}'], 'K'); p.mkdir(parents=True); "
    names = '{"child_paths": {"k.cubin": "/elsewhere/k.cubin", "k.ttir": "/elsewhere/k.ttir"}}'
    code = cache.format("TRITON_CACHE_DIR")
    code += f"(p / '__grp__k.json').write_text('{names}'); "
    code += "(p / 'k.cubin').write_text('c'); (p / 'k.ttir').write_text('t'); "
    code += "pathlib.Path(os.environ['FLASHMATCH_CACHE']).mkdir(); "
    code += "pathlib.Path(os.environ['FLASHMATCH_CACHE'], 'verdict').write_text('right')"
    stubs = [counted(counts, "a", code), counted(counts, "b", "1 / 0")]
    run(monkeypatch, first, stubs)
    carried = tmp_path / "carried.tar.gz"
    shutil.move(first / "out" / "gpu.tar.gz", carried)
    shutil.rmtree(first)
    run(monkeypatch, second, stubs, "--from", str(carried))
    out = capsys.readouterr().out
    assert f"taken up from {carried}: a, b" in out
    assert "a: ok before, not run again" in out
    assert [(counts / name).read_text() for name in "ab"] == ["x", "xx"]
    kernel = second / "triton" / "K"
    group = json.loads((kernel / "__grp__k.json").read_text())["child_paths"]
    assert group == {name: str(kernel / name) for name in ["k.cubin"]}
    assert (kernel / "k.cubin").read_text() == "c"
    assert not (kernel / "k.ttir").exists()  # Triton does without
    assert (second / "cache" / "verdict").read_text() == "right"
    assert "a: ok (" in (second / "out" / "table.txt").read_text()


def test_kernels_that_lie_there_are_found_wherever_they_were_made(
    monkeypatch, tmp_path: Path
) -> None:
    index = tmp_path / "triton" / "K" / "__grp__k.json"
    index.parent.mkdir(parents=True)
    elsewhere = {name: f"/elsewhere/{name}" for name in ("k.cubin", "k.ttir")}
    index.write_text(json.dumps({"child_paths": elsewhere}))
    run(monkeypatch, tmp_path, [stub("pass", "a")])
    found = json.loads(index.read_text())["child_paths"]
    assert found == {"k.cubin": str(index.parent / "k.cubin")}


def test_triton_finds_the_kernels_that_were_carried(monkeypatch, tmp_path: Path) -> None:
    """Its cache holds whole paths: moved as it is, everything would be compiled again."""
    pytest.importorskip("triton")
    from triton import compile, knobs
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from gpu.probes.empty_kernel import empty_kernel

    hits = []
    listener = lambda *, cache_hit, **_: hits.append(cache_hit)  # noqa: E731
    monkeypatch.setattr(knobs.compilation, "listener", listener)
    first, second = tmp_path / "first", tmp_path / "second"

    def compiled_in(folder: Path) -> bytes:
        monkeypatch.setattr(knobs.cache, "dir", str(folder / "triton"))
        source = ASTSource(empty_kernel, {"argument": "*fp32"})
        return compile(source, target=GPUTarget("cuda", 90, 32)).kernel

    kernel = compiled_in(first)
    assert kernel.startswith(b"\x7fELF")
    archive.hand_out(first, tmp_path / "out", "a table", [])
    shutil.rmtree(first)
    archive.take_up(tmp_path / "out" / archive.ARCHIVE, second, rehearsed=False)
    assert compiled_in(second) == kernel
    assert hits == [False, True]


def test_the_own_archive_is_taken_up_where_results_are_absent(monkeypatch, tmp_path, capsys):
    stubs = [stub("pass", "a")]
    run(monkeypatch, tmp_path, stubs)
    shutil.rmtree(tmp_path / "a")
    run(monkeypatch, tmp_path, stubs)
    assert "a: ok before" in capsys.readouterr().out
    (tmp_path / "out" / "gpu.tar.gz").write_bytes(b"no archive")
    shutil.rmtree(tmp_path / "a")
    assert run(monkeypatch, tmp_path, stubs) == 0
    assert "is not taken up" in capsys.readouterr().out
    assert run(monkeypatch, tmp_path, stubs, "--from", str(tmp_path / "none.tar.gz")) == 2


def test_rehearsed_and_measured_results_do_not_mix(monkeypatch, tmp_path: Path, capsys) -> None:
    rehearsed, real = tmp_path / "rehearsed", tmp_path / "real"
    run(monkeypatch, rehearsed, [stub("pass", "a")])
    monkeypatch.setattr(run_parts, "no_device", lambda: None)
    for words in ([str(rehearsed)], [str(real), "--from", str(rehearsed / "out" / "gpu.tar.gz")]):
        assert run_parts.main(parsed("--slice", "A", "--results", *words)) == 2
    assert "rehearsed results" in capsys.readouterr().out
    assert not real.exists()
    part_process.kept_in(real / "a", part_process.Outcome("a", 0, 1.0, "ok"))
    assert run(monkeypatch, real, [stub("pass", "a")]) == 2
    assert run_parts.main(parsed("--rehearse", "--record")) == 2


def test_an_archive_leads_nowhere_else(tmp_path: Path) -> None:
    for i, name in enumerate(("../escaped", "/tmp/escaped", "a/../../escaped")):
        with tarfile.open(tmp_path / f"{i}.tar.gz", "w:gz") as packed:
            packed.addfile(tarfile.TarInfo(name), io.BytesIO())
        with pytest.raises(ValueError, match="lead out"):
            archive.take_up(tmp_path / f"{i}.tar.gz", tmp_path / "in", rehearsed=False)
    assert not (tmp_path / "escaped").exists()


def test_kernels_stay_where_the_archive_would_be_too_large(monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "triton" / "K").mkdir(parents=True)
    (tmp_path / "triton" / "K" / "k.cubin").write_bytes(bytes(range(256)) * 9)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "log.txt").write_text("\n".join(map(str, range(500))))

    def packed() -> list[str]:
        archive.hand_out(tmp_path, tmp_path / "out", "a table", ["a", "b"])
        with tarfile.open(tmp_path / "out" / "gpu.tar.gz") as file:
            return file.getnames()

    assert packed() == ["a/log.txt", "triton/K/k.cubin"]
    monkeypatch.setattr(archive, "MOST_BYTES", 100)
    assert packed() == ["a/log.txt"]
    log = (tmp_path / "out" / "log.txt").read_text().splitlines()
    assert log[:3] == ["== a", "... 300 lines, in gpu.tar.gz", "300"]
    assert log[-1] == "499"
    assert (tmp_path / "out" / "table.txt").read_text() == "a table\n"


def test_a_disk_that_is_full_ends_no_slice(monkeypatch, tmp_path: Path, capsys) -> None:
    def full(*_) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(archive, "hand_out", full)
    assert run(monkeypatch, tmp_path, [stub("pass", "a"), stub("pass", "b")]) == 0
    assert "could not be written: No space" in capsys.readouterr().out
    assert verdicts(tmp_path) == {"a": "ok", "b": "ok"}
