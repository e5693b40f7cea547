"""Two commits: a table with fixed numbers; processes that search by what they are given."""

import csv
import subprocess
from pathlib import Path

import pytest
import torch

from measuring.links import ROOT
from measuring.shapes import Shape, make
from providers.ours import BANK, TOPK
from studies import two_commits
from studies.commit_process import CommitProcess, digest
from studies.two_commits import Asked, Comparison

CPU = torch.device("cpu")
SHAPE = Shape(2, 50, 8, 3)
# Other folders than ours: nothing but the public names, and a print that is no answer.
ANOTHER = """
import torch

def topk(queries, prototypes, k, *, metric):
    print("searching")
    return torch.topk(queries @ prototypes.T, k)

class PrototypeBank:
    def __init__(self, prototypes, *, metric):
        raise MemoryError("too\\nsmall")
"""


class Fixed:
    """A commit whose calls take the given seconds in turn, over and over."""

    def __init__(self, found: str, *seconds: float) -> None:
        self.found, self.each = found, seconds
        self.samples = 0

    def prepare(self, shape: Shape, search: str) -> tuple[float, str]:
        return self.each[0], f"{self.found} of {search}"

    def seconds(self, calls: int) -> float:
        self.samples += 1
        return self.each[self.samples % len(self.each)]


def compare(base: Fixed, here: Fixed, search: str = TOPK) -> list[Comparison]:
    asked = Asked([SHAPE], [search], CPU, budget=0, least=5, minutes=1)
    return two_commits.compare_all("0123456789ab", base, here, asked)


def test_the_table(capsys) -> None:
    base = Fixed("x", 0.5, 0.030, 0.032, 0.028, 0.036)  # the estimate is no sample
    compare(base, Fixed("x", 0.016, 0.015, 0.014, 0.018, 0.017))
    head, _, *table = capsys.readouterr().out.splitlines()
    assert head.startswith("base: 0123456789ab, here: ")
    assert table == [
        "| shape | search | base: ms | here: ms | times faster | results |",
        "| --- | --- | --- | --- | --- | --- |",
        f"| {SHAPE} | {TOPK} | 32 (30 to 36) | 16 (15 to 17) | 2.00 (1.76 to 2.40) | equal |",
    ]


def test_results_that_differ_are_said_to() -> None:
    [row] = compare(Fixed("x", 1.0), Fixed("y", 1.0))
    assert row.cells()[-1] == "differ"
    assert row.times_faster == 1


def test_every_search_of_ours_is_compared() -> None:
    rows = compare(Fixed("x", 1.0), Fixed("x", 1.0), search="")
    assert [row.search for row in rows] == [TOPK, BANK, f"{BANK}, build included"]


def test_a_digest_is_of_every_bit() -> None:
    scores, indices = torch.tensor([[1.0, 0.0]]), torch.tensor([[4, 2]])
    others = (scores.nextafter(scores + 1), indices), (-scores, indices), (scores, indices.flip(1))
    assert len({digest(found) for found in ((scores, indices), *others)}) == 4
    assert digest((scores.clone(), indices.clone())) == digest((scores, indices))


@pytest.fixture
def another(tmp_path: Path) -> Path:
    (tmp_path / "flashmatch").mkdir()
    (tmp_path / "flashmatch" / "__init__.py").write_text(ANOTHER)
    return tmp_path


def test_a_process_searches_by_the_flashmatch_it_is_given(another: Path) -> None:
    queries, prototypes = make(SHAPE, CPU)
    with CommitProcess("another", another, CPU) as process:
        seconds, found = process.prepare(SHAPE, TOPK)
        assert found == digest(torch.topk(queries @ prototypes.T, SHAPE.k))
        assert 0 < seconds < 60
        assert 0 < process.seconds(3) < 60
        with pytest.raises(RuntimeError, match="another: MemoryError: too\nsmall"):
            process.prepare(SHAPE, BANK)
        assert process.prepare(SHAPE, TOPK)[1] == found  # it goes on


def test_a_process_that_ends_is_an_error(another: Path) -> None:
    (another / "flashmatch" / "__init__.py").write_text("raise SystemExit")
    with CommitProcess("another", another, CPU) as process:
        process._process.wait()
        with pytest.raises(RuntimeError, match="another: its process ended"):
            process.prepare(SHAPE, TOPK)


def test_a_commit_that_cannot_search_has_its_reason_in_the_table(another: Path) -> None:
    with CommitProcess("another", another, CPU) as process:
        asked = Asked([SHAPE], [BANK], CPU, budget=0, least=1, minutes=1)
        row = two_commits.compare(SHAPE, BANK, "another", process, Fixed("x", 1.0), asked)
    assert row.cells()[2:] == ("", "", "", "error: RuntimeError: another: MemoryError: too small")


def is_repository() -> bool:
    run = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True)
    return run.returncode == 0


@pytest.mark.skipif(not is_repository(), reason="no git, or no repository")
def test_head_finds_what_the_checkout_finds(tmp_path: Path, capsys) -> None:
    asked = Asked([SHAPE], ["flashmatch.PrototypeBank"], CPU, budget=0, least=1, minutes=1)
    assert two_commits.run("HEAD", asked, tmp_path) == 0
    assert capsys.readouterr().out.count("| equal |") == 2
    [path] = tmp_path.glob("*-base.csv")
    with path.open() as file:
        lines = list(csv.DictReader(file))
    assert [line["search"] for line in lines] == [BANK, f"{BANK}, build included"]
    with pytest.raises(ValueError, match="--base must be a commit of this repository; got 'nope'"):
        two_commits.run("nope", asked, None)
