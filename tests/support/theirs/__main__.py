"""``python -m theirs LIST.txt [FILE ...]`` prints how their tests end, and a new list of them.

    PYTHONPATH=tests/support .venv-dropin/bin/python -m theirs tests/dropin/theirs/faiss.txt

Lines that still hold are as they were; what is left for somebody to say has a reason of ``?``.
FILE adds files that the list does not have yet.
"""

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from .judge import judge
from .lists import LEFT_OUT, PASSES, Entry, read
from .plugin import OUTSIDE
from .run import ends_of
from .sources import obtain


def main() -> None:
    parser = argparse.ArgumentParser(prog="theirs", description=__doc__.partition("\n")[0])
    parser.add_argument("list", type=Path)
    parser.add_argument("files", nargs="*")
    arguments = parser.parse_args()
    listing = read(arguments.list)
    added = tuple(Entry(LEFT_OUT, file, "?") for file in arguments.files)
    listing = replace(listing, entries=listing.entries + added)
    with tempfile.TemporaryDirectory() as scratch:
        ends = ends_of(listing, obtain(listing, Path(scratch)), Path(scratch))
    print(judge(listing, ends), file=sys.stderr)
    print(*renewed(listing.entries, ends), sep="\n")


def renewed(entries: tuple[Entry, ...], ends: dict[str, dict]) -> list[Entry]:
    """The lines for these ends: one for a function where its parameters end alike."""
    functions: dict[str, dict[str, dict]] = {}
    for test, end in ends.items():
        functions.setdefault(test.partition("[")[0], {})[test] = end
    lines = [entry for entry in entries if entry.verdict not in (PASSES, LEFT_OUT)]
    for function, group in functions.items():
        lines += _lines_of(function, group, entries)
    return list(dict.fromkeys(lines))


def _lines_of(function: str, group: dict[str, dict], entries: tuple[Entry, ...]) -> list[Entry]:
    failed = [test for test, end in group.items() if end["end"] == "failed"]
    fits = [end["end"] == "passed" and end["reach"] > OUTSIDE for end in group.values()]
    alone = len(failed) == len(group) or not any(fits)
    lines = [] if alone else [Entry(PASSES, function)]
    for test in [function] if alone else failed:
        known = [e for e in entries if e.verdict == LEFT_OUT and e.fits(test)]
        why = group.get(test, next(iter(group.values()))).get("why", "does not come to our code")
        lines.append(
            max(known, key=lambda e: len(e.test)) if known else Entry(LEFT_OUT, test, f"? {why}")
        )
    return lines


if __name__ == "__main__":
    main()
