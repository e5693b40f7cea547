"""The rig that runs the libraries' own tests, given wrong lists and tests that prove nothing."""

from pathlib import Path

import pytest
from theirs.__main__ import renewed
from theirs.judge import Verdict, judge
from theirs.lists import LEFT_OUT, NOT_RUN, PASSES, Entry, Listing, read
from theirs.plugin import INSIDE, OUTSIDE, SEARCHED
from theirs.run import ends_of
from theirs.sources import NotToBeHad, obtain

HEAD = (
    "stand_in sklearn\nneeds sklearn\nsource installed scikit-learn 0.0 sklearn/neighbors/tests\n"
)
GOOD = {"end": "passed", "reach": SEARCHED}
IDLE = {"end": "passed", "reach": OUTSIDE}
BAD = {"end": "failed", "reach": INSIDE, "why": "AssertionError: 1 != 2"}
SKIPPED = {"end": "skipped", "reach": OUTSIDE, "why": "no GPU"}

THEIR_TESTS = """
import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

X = np.arange(12.0).reshape(6, 2)

def test_searches():
    found = NearestNeighbors(n_neighbors=1).fit(X).kneighbors(X)[1]
    assert found.ravel().tolist() == [0, 1, 2, 3, 4, 5]

def test_refused():
    with pytest.raises(ValueError):
        NearestNeighbors().kneighbors(X)

def test_idle():
    assert NearestNeighbors()

@pytest.mark.parametrize("wanted", [0, 1])
def test_half(wanted):
    assert NearestNeighbors(n_neighbors=1).fit(X).kneighbors(X[:1])[1].item() == wanted

def test_skipped():
    pytest.skip("no GPU")

def test_long():
    raise MemoryError
"""


def listing_of(*entries: Entry) -> Listing:
    return Listing("some", "sklearn", ("sklearn",), ("installed",), entries)


def faults_of(entry: Entry, ends: dict) -> list[str]:
    return judge(listing_of(entry), ends).faults


def written(folder: Path, text: str) -> Path:
    path = folder / "some.txt"
    path.write_text(HEAD + text)
    return path


def test_a_list_is_read(tmp_path: Path) -> None:
    text = "# why\npasses test_a.py::A::test\nleft out test_b.py::test[x: y]: needs: IVF\n"
    listing = read(written(tmp_path, text))
    assert listing.entries == (
        Entry(PASSES, "test_a.py::A::test"),
        Entry(LEFT_OUT, "test_b.py::test[x: y]", "needs: IVF"),
    )
    assert listing.files == ["test_a.py", "test_b.py"]
    assert listing.source[:2] == ("installed", "scikit-learn")


@pytest.mark.parametrize(
    "line",
    [
        "left out test_a.py::test",
        "left out test_a.py::test: ? ValueError",
        "passes test_a.py::test: because",
        "not run test_a.py::test",
        "fails test_a.py::test: IVF",
        "passes test_a.py::test\nleft out test_a.py::test: IVF",
    ],
)
def test_a_list_without_reasons_is_refused(line: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"some\.txt must"):
        read(written(tmp_path, line))


def test_the_longest_line_counts() -> None:
    every, some = Entry(PASSES, "a.py::t"), Entry(LEFT_OUT, "a.py::t[*-l1-*]", "no l1")
    listing = listing_of(every, some)
    assert listing.entry_for("a.py::t[3-l1-x]") is some
    assert listing.entry_for("a.py::t[3-l2-x]") is every
    assert listing.entry_for("a.py::t") is every
    assert listing.entry_for("a.py::tt") is None
    assert listing.entry_for("a.py::t2[3-l1-x]") is None


@pytest.mark.parametrize(
    ("entry", "ends", "fault"),
    [
        (Entry(PASSES, "t"), {"t": BAD}, "t is listed as passing: failed: AssertionError: 1 != 2"),
        (Entry(PASSES, "t"), {"t[0]": GOOD, "t[1]": BAD}, "t[1] is listed as passing"),
        (Entry(PASSES, "t"), {"t": IDLE}, "t is listed as passing: passes without coming to our"),
        (Entry(PASSES, "t"), {"t": SKIPPED}, "t is listed as passing: skipped: no GPU"),
        (Entry(PASSES, "t"), {"t": GOOD, "u": GOOD}, "u is in no list: passes"),
        (Entry(PASSES, "t"), {"t": GOOD, "u": BAD}, "u is in no list: failed: Assert"),
        (Entry(PASSES, "t"), {}, "t is listed, and is none of their tests"),
        (Entry(LEFT_OUT, "t", "IVF"), {}, "t is listed, and is none of their tests"),
        (Entry(NOT_RUN, "t", "slow"), {"t": GOOD}, "t is listed as not run, and was"),
    ],
)
def test_what_is_not_as_listed_is_a_fault(entry: Entry, ends: dict, fault: str) -> None:
    (found,) = faults_of(entry, ends)
    assert found.startswith(fault)


def test_what_is_as_listed_is_none() -> None:
    ends = {"a[0]": GOOD, "a[1]": SKIPPED, "a[2]": IDLE, "b": BAD, "c": IDLE}
    entries = (Entry(PASSES, "a"), Entry(LEFT_OUT, "b", "IVF"), Entry(LEFT_OUT, "c", "a mock"))
    entries += (Entry(NOT_RUN, "d", "slow"),)
    assert judge(listing_of(*entries), ends) == Verdict(passed=1, searched=1)


def test_what_is_left_out_and_passes_is_news() -> None:
    entry = Entry(LEFT_OUT, "t", "IVF")
    assert judge(listing_of(entry), {"t": GOOD}).news == ["left out t: IVF - and passes"]
    assert judge(listing_of(entry), {"t[0]": GOOD, "t[1]": BAD}).news == []


def test_another_version_is_not_judged(tmp_path: Path) -> None:
    with pytest.raises(NotToBeHad, match=r"the list is of scikit-learn 0\.0, and 1"):
        obtain(read(written(tmp_path, "passes a.py::t\n")), tmp_path)


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    folder = tmp_path_factory.mktemp("theirs")
    (folder / "test_some.py").write_text(THEIR_TESTS)
    listing = listing_of(Entry(NOT_RUN, "test_some.py::test_long", "needs all memory"))
    return ends_of(listing, folder, tmp_path_factory.mktemp("scratch"))


def test_how_far_each_came(ends: dict[str, dict]) -> None:
    found = {test.partition("::")[2]: (end["end"], end["reach"]) for test, end in ends.items()}
    assert found == {
        "test_searches": ("passed", SEARCHED),
        "test_refused": ("passed", INSIDE),
        "test_idle": ("passed", OUTSIDE),
        "test_half[0]": ("passed", SEARCHED),
        "test_half[1]": ("failed", SEARCHED),
        "test_skipped": ("skipped", OUTSIDE),
    }


def test_the_lines_for_them(ends: dict[str, dict]) -> None:
    known = (
        Entry(NOT_RUN, "test_some.py::test_long", "needs all memory"),
        Entry(LEFT_OUT, "test_some.py::test_half[*1*]", "wants 1"),
        Entry(LEFT_OUT, "test_some.py::test_gone", "was there once"),
    )
    lines = renewed(known, ends)
    assert [str(line) for line in lines[:-1]] == [
        "not run test_some.py::test_long: needs all memory",
        "passes test_some.py::test_searches",
        "passes test_some.py::test_refused",
        "left out test_some.py::test_idle: ? does not come to our code",
        "passes test_some.py::test_half",
        "left out test_some.py::test_half[*1*]: wants 1",
    ]
    assert str(lines[-1]).startswith("left out test_some.py::test_skipped: ? ")


def test_a_run_that_breaks_off_is_no_result(tmp_path: Path) -> None:
    listing = listing_of(Entry(PASSES, "test_none.py::test"))
    with pytest.raises(RuntimeError, match=r"(?s)pytest of some ended with 4.*test_none\.py"):
        ends_of(listing, tmp_path, tmp_path)
