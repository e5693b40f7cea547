"""Lists of their tests: which pass with ours in place, and why each of the others is left out.

A list is a text file of lines:

    stand_in faiss                        a name of ``stand_ins``
    needs faiss torchvision               modules without which the list does not apply
    source debian faiss 1.7.3 ...         where the tests are: see ``sources``
    passes FILE::TEST
    left out FILE::TEST: REASON
    not run FILE::TEST: REASON

FILE::TEST is a name as pytest gives it; without its [parameters] it means all of them, and ``*``
within them means anything. The longest line that fits a test is the one that counts. The files that
are run are those that the lines name.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PASSES, LEFT_OUT, NOT_RUN = "passes", "left out", "not run"
LINE = re.compile(rf"({PASSES}|{LEFT_OUT}|{NOT_RUN}) (\S+?(?:\[.*\])?)(?:: ([^?].*))?")


@dataclass(frozen=True)
class Entry:
    verdict: str
    test: str
    reason: str = ""

    def fits(self, name: str) -> bool:
        if name == self.test:
            return True
        function, bracket, _ = name.partition("[")
        pattern = re.escape(self.test).replace(r"\*", ".*")
        return bool(bracket) and (function == self.test or bool(re.fullmatch(pattern, name)))

    def __str__(self) -> str:
        return f"{self.verdict} {self.test}" + (f": {self.reason}" if self.reason else "")


@dataclass(frozen=True)
class Listing:
    name: str
    stand_in: str
    needs: tuple[str, ...]
    source: tuple[str, ...]
    entries: tuple[Entry, ...]

    @property
    def files(self) -> list[str]:
        return list(dict.fromkeys(entry.test.partition("::")[0] for entry in self.entries))

    def entry_for(self, test: str) -> Entry | None:
        fitting = [entry for entry in self.entries if entry.fits(test)]
        return max(fitting, key=lambda entry: len(entry.test), default=None)


def read(path: Path) -> Listing:
    """The list in a file.

    Raises:
        ValueError: a line that is none of the above, a test twice, a reason that is missing.
    """
    settings, entries = {}, []
    for line in _lines(path):
        key, _, value = line.partition(" ")
        if key in ("stand_in", "needs", "source"):
            settings[key] = value
        elif (match := LINE.fullmatch(line)) and (match[1] == PASSES) == (match[3] is None):
            entries.append(Entry(match[1], match[2], match[3] or ""))
        else:
            raise ValueError(f"{path.name} must hold lines as theirs.lists has them; got {line!r}")
    names = [entry.test for entry in entries]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"{path.name} must name each test once; got {sorted(twice)} more often")
    needs, source = (tuple(settings[key].split()) for key in ("needs", "source"))
    return Listing(path.stem, settings["stand_in"], needs, source, tuple(entries))


def _lines(path: Path) -> Iterator[str]:
    lines = (line.strip() for line in path.read_text().splitlines())
    return (line for line in lines if line and not line.startswith("#"))
