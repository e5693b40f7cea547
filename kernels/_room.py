"""What states of a bank share: memory that is filled once, and locks.

A state never changes. The next one of a bank shares the tensors of the last, with more behind what
the last one reads; whoever wants to write there claims it first, and copies if it is taken.
"""

import os
import threading
import weakref

_locks: weakref.WeakSet[threading.Lock] = weakref.WeakSet()


def new_lock() -> threading.Lock:
    """A lock that is open in a forked child: whoever held it is not there to open it."""
    lock = threading.Lock()
    _locks.add(lock)
    return lock


class Room:
    """How much of some tensors is taken, from their start, by anybody."""

    def __init__(self, taken: int) -> None:
        self._taken, self._lock = taken, new_lock()

    def claim(self, start: int, stop: int) -> bool:
        """Whether start..stop were free, behind all that was taken; they are the caller's now."""
        with self._lock:
            free = self._taken == start
            if free:
                self._taken = stop
            return free

    def __reduce__(self) -> tuple[type["Room"], tuple[int]]:
        return Room, (self._taken,)


def _open_all() -> None:
    for lock in list(_locks):
        if lock.locked():
            lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_open_all)
