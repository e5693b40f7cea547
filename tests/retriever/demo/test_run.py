"""The demo: what it finds, prints and writes; on tiny images with a stub for an encoder."""

import re
import sys
from functools import partial
from html.parser import HTMLParser
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from programs import output_of
from torch import Tensor, nn

from flashmatch import __version__
from flashmatch.__main__ import main
from flashmatch.retriever.demo import compare as timing
from flashmatch.retriever.demo import run as demo
from flashmatch.retriever.demo.compare import compare, enlarge, fp64_answer
from flashmatch.retriever.demo.options import DemoError, Options
from flashmatch.retriever.demo.run import run
from flashmatch.retriever.demo.table import align, share


class Thumbnail(nn.Module):
    """Means of 4 x 4 blocks: enough to know a smooth image again."""

    def forward(self, images: Tensor) -> Tensor:
        assert not self.training  # batch statistics would make an image depend on its neighbours
        return nn.functional.adaptive_avg_pool2d(images, 4).flatten(1)


def smooth(seed: int, size: tuple[int, int] = (96, 80)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    images = tmp_path / "images"
    images.mkdir()
    for seed in range(4):
        smooth(seed).save(images / f"photo {seed}.png")
    (images / "broken.jpg").write_text("not a JPEG")
    return images


def options(folder: Path, **changes) -> Options:
    small = {"gallery": 16, "queries": 6, "image_size": 32, "enlarged": 0, "topk": 3}
    return Options(**{"images": folder, "out": folder.parent / "out", **small, **changes})


class Tags(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_whole_run(folder: Path) -> None:
    lines: list[str] = []
    findings = run(options(folder, enlarged=300), Thumbnail(), lines.append)
    text = "\n".join(lines)
    assert len(findings) == 4  # only the whole photographs have 64 pixels a side
    assert all(len(finding.rows) == 3 for finding in findings)
    assert all(finding.rows[0] == finding.source for finding in findings)
    assert "skipped  1 file that" in text
    assert "broken.jpg" in text
    assert "gallery  20 images: 4 photographs, 16 tiles" in text
    assert re.search(r"very image it was made from +100\.0 % +100\.0 % +5\.0 %", text)
    assert text.count("flashmatch.PrototypeBank") == text.count("flashmatch.topk") == 2
    assert "The first three have prepared the gallery before, which is not timed" in " ".join(
        text.split()
    )
    assert "4 queries x 300 prototypes x 48, k = 3" in text
    page = (folder.parent / "out" / "index.html").read_text()
    assert str(folder.parent / "out" / "index.html") in text
    assert page.count('class="source"') == 4
    assert "100.0 %" in page


def test_the_page_needs_nothing_but_itself(folder: Path) -> None:
    smooth(9).save(folder / "<b>&.png")
    run(options(folder), Thumbnail(), lambda line: None)
    page = (folder.parent / "out" / "index.html").read_text()
    tags = Tags(page).found
    names = {tag for tag, _ in tags}
    assert names.isdisjoint({"script", "link", "iframe"})
    assert not any("href" in attributes for _, attributes in tags)
    images = [attributes["src"] or "" for tag, attributes in tags if tag == "img"]
    assert len(images) >= 20
    assert all(source.startswith("data:image/jpeg;base64,") for source in images)
    assert "url(" not in page
    assert "<b>&.png" not in page
    assert "&lt;b&gt;&amp;.png" in page


def test_the_same_seed_gives_the_same_findings(folder: Path) -> None:
    def results(seed: int) -> list:
        found = run(options(folder, seed=seed, html=False), Thumbnail(), lambda line: None)
        return [(finding.source, finding.rows, finding.scores) for finding in found]

    threads = torch.get_num_threads()
    assert results(1) == results(1) != results(2)
    assert torch.get_num_threads() == threads
    assert not (folder.parent / "out").exists()


def test_one_image_is_looked_for_among_whole_photographs(folder: Path) -> None:
    smooth(2, (200, 150)).save(folder.parent / "wanted.jpg", quality=40)
    lines: list[str] = []
    (finding,) = run(options(folder, query=folder.parent / "wanted.jpg"), Thumbnail(), lines.append)
    assert finding.rows[0] == 2
    assert re.search(r"\n +1  photo 2\.png +(0\.99|1\.00)", "\n".join(lines))
    assert "wanted.jpg" in (folder.parent / "out" / "index.html").read_text()


def test_one_tiny_image_is_enough(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    smooth(0, (5, 3)).save(tmp_path / "images" / "only.png")
    (finding,) = run(options(tmp_path / "images"), Thumbnail(), lambda line: None)
    assert finding.rows == [0]


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_text("no image")
    with pytest.raises(DemoError, match=r"--images must hold at least one readable image .* 1 unr"):
        run(options(tmp_path), Thumbnail(), lambda line: None)


def test_missing_packages_come_with_the_command(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    assert main(["demo", "--no-html"]) == 2
    assert 'pip install "flashmatch[demo]"' in capsys.readouterr().err
    monkeypatch.setattr("flashmatch.retriever.gallery.shipped.find_spec", lambda name: None)
    monkeypatch.setattr(demo, "build_encoder", lambda spec: Thumbnail())
    assert main(["demo", "--no-html"]) == 2
    assert 'scikit-image wheel: pip install "flashmatch[demo]"' in capsys.readouterr().err


def test_the_command_line_hands_its_options_on(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Options] = []
    monkeypatch.setattr("flashmatch.__main__.run", given.append)
    assert main(["demo"]) == 0
    line = "demo --images a --query b --out c --topk 2 --queries 3 --gallery 4 --image-size 5"
    assert (
        main([*line.split(), "--enlarged", "6", "--threads", "7", "--seed", "8", "--no-html"]) == 0
    )
    assert given == [
        Options(),
        Options(Path("a"), Path("b"), Path("c"), 2, 3, 4, 5, 6, 7, 8, html=False),
    ]


def test_python_m_and_the_version() -> None:
    options = ["-P"] if sys.version_info >= (3, 11) else []
    printed = output_of(*options, "-m", "flashmatch", "--version")
    assert printed.strip() == f"flashmatch {__version__}"


def test_no_command_prints_help(capsys) -> None:
    assert main([]) == 0
    assert "demo" in capsys.readouterr().out


def test_the_comparison_judges_by_fp64() -> None:
    generator = torch.Generator().manual_seed(0)
    prototypes = torch.randn(50, 8, generator=generator)
    queries = prototypes[[3, 17]] + 0.01
    comparison = compare("title", queries, prototypes, 2)
    assert [row.name for row in comparison.rows] == [
        "flashmatch.PrototypeBank",
        "torch in fp64, normalised before",
        "torch matmul + topk, normalised before",
        "flashmatch.topk",
        "torch matmul + topk",
        "torch.cosine_similarity + sort",
    ]
    assert [row.agreement for row in comparison.rows] == [1.0] * 6
    assert all(comparison.rows[i].scores == 1.0 for i in (0, 1, 3))
    assert fp64_answer(queries, prototypes, 1)[1].flatten().tolist() == [3, 17]
    duplicates = prototypes[[5, 5, 5]]
    assert fp64_answer(duplicates[:1], duplicates, 3)[1].tolist() == [[0, 1, 2]]


def test_scores_that_fp64_does_not_have_are_seen() -> None:
    generator = torch.Generator().manual_seed(0)
    prototypes = torch.randn(400, 300, generator=generator)
    scores = {row.name: row.scores for row in compare("", prototypes[:40], prototypes, 10).rows}
    assert scores["flashmatch.PrototypeBank"] == scores["flashmatch.topk"] == 1.0
    assert 0.0 < scores["torch matmul + topk, normalised before"] < 0.9


def test_searches_take_turns_and_are_timed_warm(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first four calls after another are slow, 8 ms; each is timed once a round."""

    def search(name: str) -> None:
        warm[name] = warm[name] + 1 if asked[-1:] == [name] else 0
        asked.append(name)
        clock[0] += 0.001 if warm[name] > 3 else 0.002

    asked: list[str] = []
    warm = dict.fromkeys("abc", 0)
    clock = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(timing, "ROUNDS", (6, 6))
    samples = timing.interleave({name: partial(search, name) for name in "abc"})
    assert set(samples) == set("abc")
    assert all(times == pytest.approx([0.001] * 6) for times in samples.values())
    turns = "".join(name for name, _ in groupby(asked))
    assert len({turns[at : at + 3] for at in range(0, len(turns) - 2, 3)}) > 1


def test_what_would_not_fit_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flashmatch.retriever.demo.compare.LARGEST_BYTES", 1000)
    rows = compare("title", torch.ones(2, 8), torch.randn(50, 8), 2).rows
    names = ["torch.cosine_similarity + sort", "torch in fp64, normalised before"]
    assert [row.name for row in rows[-2:]] == names
    for row in rows[-2:]:
        assert row.milliseconds is None
        assert "would hold" in row.remark


def test_an_enlarged_gallery_repeats_its_features() -> None:
    features = torch.rand(7, 3) + 0.5
    large = enlarge(features, 40, 0.01, seed=0)
    assert large.shape == (40, 3)
    assert torch.allclose(large, features.repeat(6, 1)[:40], rtol=0.08)
    assert not torch.equal(large[:7], large[7:14])


def test_tables() -> None:
    assert share(1.0) == "100.0 %"
    assert share(0.99999) == "99.9 %"
    assert align([("a", "1"), ("bcd", "22")]) == "  a      1\n  bcd   22"


def test_the_real_encoder_knows_shipped_photographs(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    skimage = pytest.importorskip("skimage")
    data = Path(skimage.__file__).parent / "data"
    (tmp_path / "images").mkdir()
    for name in ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg"):
        (tmp_path / "images" / name).write_bytes((data / name).read_bytes())
    small = options(tmp_path / "images", image_size=96, queries=4, gallery=4, html=False)
    findings = run(small, show=lambda line: None)
    assert all(finding.rows[0] == finding.source for finding in findings)
