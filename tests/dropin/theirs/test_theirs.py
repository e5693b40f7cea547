"""The neighbouring libraries' own tests, with ours in the place of what they test.

Each list beside this file says which tests of a library pass so, and why the others are left out.
Their code comes with an installed package, from a package index, or from a clone: see
``theirs.sources`` and CONTRIBUTING.md.
"""

import warnings
from pathlib import Path

import pytest
from theirs.judge import judge
from theirs.lists import read
from theirs.run import ends_of
from theirs.sources import NotToBeHad, obtain

LISTS = sorted(Path(__file__).parent.glob("*.txt"))


@pytest.mark.parametrize("path", LISTS, ids=lambda path: path.stem)
def test_their_tests_end_as_listed(path: Path, tmp_path: Path) -> None:
    listing = read(path)
    try:
        folder = obtain(listing, tmp_path)
    except NotToBeHad as reason:
        pytest.skip(f"{path.stem}: {reason}")
    verdict = judge(listing, ends_of(listing, folder, tmp_path))
    print(verdict)
    for line in verdict.news:
        warnings.warn(line, stacklevel=1)
    assert not verdict.faults, f"{path.name}: {verdict}"
