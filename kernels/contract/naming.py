"""Errors in the caller's own words: what it calls an argument, and remedies that it has."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from .finite import EXCLUDE


@contextmanager
def named(**names: str) -> Iterator[None]:
    """Errors that name one of these arguments of ours name the caller's for it.

        with named(queries="feature", prototypes="feature_bank", k="knn_k"):
            topk(feature, feature_bank, knn_k)

    What is renamed is what comes before the value; ``EXCLUDE`` is left out unless the caller has
    ``nonfinite``, too.
    """
    try:
        yield
    except (TypeError, ValueError, FileNotFoundError) as error:
        rule, got, value = str(error).partition("; got ")
        if got:
            rule = rule if "nonfinite" in names else rule.replace(EXCLUDE, "")
            rule = re.sub(r"\w+", lambda word: names.get(word[0], word[0]), rule)
            error.args = (rule + got + value,)
        raise
