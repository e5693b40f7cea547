"""Names as a terminal and a page may show them: with nothing that steers either."""

import os
import sys


def printable(name: str) -> str:
    """``name``, with U+FFFD for bytes that are no UTF-8, and with escapes for what has no shape of
    its own: control and bidirectional characters, which could move the cursor or swap what is
    read."""
    return "".join(map(_printable, name))


def _printable(character: str) -> str:
    if "\ud800" <= character <= "\udfff":  # how Python carries such a byte
        return "\ufffd"
    if character.isprintable():
        return character
    return character.encode("unicode_escape").decode()


def quoted(path: str | os.PathLike) -> str:
    """A path as an error shows it."""
    return f"'{printable(os.fsdecode(path))}'"


def print_line(line: str) -> None:
    """``print``, with escapes for what the output's encoding does not have."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    print(line.encode(encoding, "backslashreplace").decode(encoding))
