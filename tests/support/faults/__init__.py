"""Faults on purpose: damaged files, killed and interrupted processes, threads, extreme numbers.

A trial ends in one word, counted. Words in capitals are defects: a wrong answer without a word, an
error that no caller expects, something lost. ``python -m faults`` runs as many as one likes.
"""

DEFECTS = ("WRONG", "LOST", "ESCAPED", "CRASHED")


def defects(counts: dict[str, int]) -> dict[str, int]:
    return {what: count for what, count in counts.items() if what.startswith(DEFECTS)}
