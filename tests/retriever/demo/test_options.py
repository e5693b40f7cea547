"""Options of the demo that cannot work, names that no terminal shows, and what an error leaves."""

import io
import os
import sys
from pathlib import Path

import pytest
from pictures import picture
from torch import Tensor, nn

from flashmatch.__main__ import main
from flashmatch.retriever.demo import options as demo_options
from flashmatch.retriever.demo import page
from flashmatch.retriever.demo import run as demo
from flashmatch.retriever.demo.options import DemoError, Options
from flashmatch.retriever.demo.run import run
from flashmatch.retriever.images import UnreadableImage
from flashmatch.retriever.names import print_line

posix = pytest.mark.skipif(os.name != "posix", reason="files of POSIX")


class Means(nn.Module):
    """Features of images of at least 8 pixels a side; it counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def forward(self, images: Tensor) -> Tensor:
        assert not self.training
        if images.shape[-1] < 8:
            raise RuntimeError("an image of\nless than 8")
        self.seen += len(images)
        return nn.functional.adaptive_avg_pool2d(images, 4).flatten(1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    images = tmp_path / "images"
    images.mkdir()
    for side in (70, 80, 90):
        picture("RGB", (side, side)).save(images / f"{side}.png")
    return images


def options(folder: Path, **changes) -> Options:
    small = {"gallery": 5, "queries": 3, "image_size": 32, "enlarged": 0, "topk": 3}
    return Options(**{"images": folder, "out": folder.parent / "out", **small, **changes})


def quiet(line: str) -> None:
    pass


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 1}, r"--image-size must be at least 8; got 1: an image of less than 8$"),
        ({"image_size": 7}, r"--image-size must be at least 8; got 7: "),
        ({"image_size": -3}, r"--image-size must be at least 1; got -3"),
        ({"topk": 0}, r"--topk must be at least 1; got 0"),
        ({"threads": -1}, r"--threads must not be negative; got -1"),
        ({"image_size": 0}, r"--image-size must be at least 1; got 0"),
        ({"image_size": 1_000_000}, r"--image-size must be at most 512; got 1000000$"),
        ({"enlarged": 10**12}, r"--enlarged must be at most 500000; got 1000000000000$"),
        ({"enlarged": -1}, r"--enlarged must not be negative; got -1"),
        ({"topk": 10**30}, r"--topk must be at most 100; got 10{30}$"),
        ({"threads": 10**6}, r"--threads must be at most \d+; got 1000000$"),
        ({"seed": 2**63}, r"--seed must be at most 9223372036854775807; got 9223372036854775808$"),
        ({"seed": -1}, r"--seed must not be negative; got -1"),
        ({"queries": 0}, r"--queries must be at least 1; got 0"),
        ({"gallery": 0}, r"--gallery must be at least 1; got 0"),
        ({"images": Path("no")}, r"--images must be a folder; got 'no': No such file"),
        ({"images": Path(__file__)}, r"--images must be a folder; got '.*py'$"),
        ({"images": Path("a\0b")}, r"--images must be a folder; got 'a\\x00b'"),
        ({"query": Path("no.png")}, r"--query must be an image file; got 'no.png': No such file"),
        ({"query": Path(__file__)}, r"--query must be a readable image; .*cannot identify"),
        ({"query": Path()}, r"--query must be a readable image; got '\.': it is no regular file"),
        ({"query": Path("/dev/zero")}, r"--query must be a readable image; .* no regular file"),
        ({"query": Path("x" * 5000)}, r"--query must be a readable image; .*File name too long"),
        ({"out": Path(__file__)}, r"--out must be a folder to write to; got '.*py': File exists"),
        ({"out": Path(__file__, "sub")}, r"--out must be a folder to write to; .*Not a directory"),
        ({"out": Path("x" * 5000)}, r"--out must be a folder to write to; .*File name too long"),
        ({"out": Path("a\0b")}, r"--out must be a folder to write to; got 'a\\x00b'"),
    ],
    ids=lambda value: str(value)[:40],
)
@posix
def test_what_cannot_work_is_refused_before_anything_is_read(
    folder: Path, changes: dict, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "photographs_in", None)
    encoder = Means()
    with pytest.raises(DemoError, match=message) as raised:
        run(options(folder, **changes), encoder, quiet)
    assert "\n" not in str(raised.value)
    assert encoder.seen <= 1
    assert sorted(path.name for path in folder.parent.iterdir()) == ["images"]


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's /proc")
@pytest.mark.parametrize("out", ["/proc/nope", "/proc/self/fd/sub", "/dev/null/out"])
def test_places_where_nothing_can_be_made(out: str, folder: Path) -> None:
    with pytest.raises(DemoError, match=f"--out must be a folder to write to; got '{out}': "):
        run(options(folder, out=Path(out)), Means(), quiet)
    run(options(folder, out=Path(out), html=False), Means(), quiet)  # which writes nothing


def test_a_folder_that_may_not_be_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(dir: Path) -> None:
        raise PermissionError(13, "Permission denied", str(dir))

    monkeypatch.setattr(page, "TemporaryFile", refuse)
    with pytest.raises(DemoError, match=r"--out must be .* got '.*a/b': Permission denied"):
        run(options(folder, out=folder.parent / "a" / "b"), Means(), quiet)
    assert not (folder.parent / "a").exists()


def test_a_page_that_is_a_folder(folder: Path) -> None:
    (folder.parent / "out" / "index.html").mkdir(parents=True)
    with pytest.raises(DemoError, match=r"--out must be .* its index.html is no regular file"):
        run(options(folder), Means(), quiet)


@posix
def test_pipes_are_not_waited_for(folder: Path) -> None:
    os.mkfifo(folder.parent / "pipe.png")
    with pytest.raises(DemoError, match=r"--query must be .* it is no regular file"):
        run(options(folder, query=folder.parent / "pipe.png"), Means(), quiet)


def test_a_folder_of_ones_own_that_may_not_be_listed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(demo_options.os, "scandir", refuse)
    with pytest.raises(DemoError, match=r"--images must be a folder; .*: Permission denied"):
        run(options(folder), Means(), quiet)


def test_an_encoder_that_takes_no_image_is_asked_a_few_times(folder: Path) -> None:
    asked: list[int] = []

    def encoder(images: Tensor) -> Tensor:
        asked.append(images.shape[-1])
        raise ValueError("never")

    with pytest.raises(DemoError, match=r"--image-size must be a size that .* got 32: never"):
        run(options(folder), encoder, quiet)
    assert len(asked) <= 100


def test_numbers_that_mean_all_there_is(folder: Path) -> None:
    many = options(folder, topk=100, queries=10**30, gallery=10**30, seed=2**63 - 1, html=False)
    findings = run(many, Means(), quiet)
    assert len(findings) >= 3
    assert len(findings[0].rows) == min(100, 3 + 3 * 4)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("is_there", [False, True])
def test_an_error_while_writing_leaves_nothing(
    is_there: bool, error: BaseException, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sync(file: int) -> None:
        raise error

    out = folder.parent / "a" / "b"
    if is_there:
        out.mkdir(parents=True)
        (out / "index.html").write_text("before")
    monkeypatch.setattr("flashmatch.kernels.files.whole_file.os.fsync", sync)
    expected = DemoError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as raised:
        run(options(folder, out=out), Means(), quiet)
    assert expected is KeyboardInterrupt or "No space left on device" in str(raised.value)
    if is_there:
        assert [path.name for path in out.iterdir()] == ["index.html"]
        assert (out / "index.html").read_text() == "before"
    else:
        assert not (folder.parent / "a").exists()


def test_an_image_that_changes_meanwhile_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = demo.photographs_in

    def listed_and_lost(*args, **options) -> object:
        photographs = listed(*args, **options)
        (folder / "80.png").write_bytes(b"no more")
        return photographs

    monkeypatch.setattr(demo, "photographs_in", listed_and_lost)
    with pytest.raises(DemoError, match=r"--images must not change meanwhile; got '.*80\.png': "):
        run(options(folder), Means(), quiet)
    assert not (folder.parent / "out").exists()


def test_the_command_says_it_in_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["demo", "--images", str(folder), "--out", str(folder / "70.png")]
    assert main(arguments) == 2
    assert capsys.readouterr().err == (
        f"flashmatch demo: error: --out must be a folder to write to; got '{folder}/70.png': "
        "File exists\n"
    )


# Names


@posix
@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
@pytest.mark.parametrize("is_query", [False, True])
def test_names_that_are_no_utf8_and_outputs_that_have_no_unicode(
    is_query: bool, encoding: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        os.rename(folder / "80.png", os.fsencode(folder) + b"/J\xe4rvi.png")
        (folder / "70.png").rename(folder / "写真.png")
        os.mkdir(os.fsencode(folder) + b"/\xff")
    except OSError:
        pytest.skip("not a name here")
    (folder / os.fsdecode(b"bad\xe4.png")).write_bytes(b"")
    for at in (folder / "写真.png", folder / "90.png"):
        at.rename(folder / os.fsdecode(b"\xff") / at.name)
    output = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output, encoding=encoding))
    query = folder / os.fsdecode(b"J\xe4rvi.png") if is_query else None
    out = folder.parent / os.fsdecode(b"o\xfft")
    run(options(folder, query=query, out=out), Means())
    sys.stdout.flush()
    shown = output.getvalue().decode(encoding)
    mark = "\ufffd" if encoding == "utf-8" else "\\ufffd"
    assert f"bad{mark}.png: " in shown
    assert f"o{mark}t" in shown
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "J\ufffdrvi.png" in page
    assert "写真.png" in page
    if is_query:
        assert f"J{mark}rvi.png" in shown


def test_errors_show_names_with_replaced_bytes(folder: Path) -> None:
    for name, kind in (("images", "a folder"), ("query", "an image file")):
        changes = {name: Path(os.fsdecode(b"J\xe4rvi"))}
        with pytest.raises(DemoError, match=f"--{name} must be {kind}; got 'J\ufffdrvi'"):
            run(options(folder, **changes), Means(), quiet)
    with pytest.raises(UnreadableImage, match="'J\ufffdrvi': "):
        demo_options.read_image(os.fsdecode(b"J\xe4rvi"))


@pytest.mark.parametrize("stdout", [io.StringIO, lambda: io.TextIOWrapper(io.BytesIO(), "cp1252")])
def test_lines_are_printed_wherever(stdout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", stdout())
    print_line("写真 \ud800 ä")
    sys.stdout.flush()
