"""Names as a terminal and a page may show them: with nothing that steers either."""


def printable(name: str) -> str:
    """``name``, with escapes for what has no shape of its own: control and bidirectional
    characters, which could move the cursor or swap what is read, and bytes that are no UTF-8."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)
