"""Errors about indexes in files and bytes, for scripts that catch FAISS's RuntimeError, too."""

from collections.abc import Iterator
from contextlib import contextmanager


class InvalidIndexError(ValueError, RuntimeError):
    """Not the bytes of an index, or damaged ones, or of an index that is not here."""


class MissingIndexError(FileNotFoundError, RuntimeError):
    """There is no such file."""


class ForbiddenIndexError(PermissionError, RuntimeError):
    """The system does not let this file be read or written."""


class UnusableFileError(OSError, RuntimeError):
    """What else the system may say."""


class OutOfRangeError(IndexError, RuntimeError):
    """A vector has no such element."""


@contextmanager
def raised_as_faiss() -> Iterator[None]:
    """Raise the system's errors inside as those that ``except RuntimeError`` catches, too."""
    try:
        yield
    except OSError as error:
        kind = UnusableFileError
        if isinstance(error, FileNotFoundError):
            kind = MissingIndexError
        elif isinstance(error, PermissionError):
            kind = ForbiddenIndexError
        raise kind(error.errno, error.strerror, error.filename) from error
