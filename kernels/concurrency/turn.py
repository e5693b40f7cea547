"""Turns that threads take: a lock that nobody can leave locked."""

import sys
import threading
from types import FrameType

_PATIENCE = 0.05
"""Seconds to wait before looking whether whoever is inside is still there."""


class Turn:
    """``with turn:`` lets one thread in at a time.

    A lock stays locked for ever where a call is stopped on its way out of it, or where a fork
    leaves behind the thread that held it. A turn is over when the function that took it no longer
    runs. And whoever is inside already is let in again: a finalizer, say, that runs in between.

    On a machine too busy to run a thread for 50 ms it may let in two. So it is there to spare work,
    not for safety: see ``Succession``.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside: tuple[int, FrameType, threading.Lock] | None = None

    def __enter__(self) -> None:
        thread, frame, left = threading.get_ident(), sys._getframe(1), None
        while not (lock := self._lock).acquire(timeout=_PATIENCE):
            inside = self._inside
            if inside is not None and _is_running(inside[0], inside[1]):
                if inside[0] == thread:
                    return
                left = None
            elif left != (lock, inside):
                left = lock, inside  # or on the way in or out: look again
            elif self._lock is lock:
                self._lock = threading.Lock()
        self._inside = thread, frame, lock

    def __exit__(self, *_: object) -> None:
        inside = self._inside
        if inside is not None and inside[1] is sys._getframe(1):
            self._inside = None
            inside[2].release()

    def __reduce__(self) -> tuple[type["Turn"], tuple[()]]:
        return Turn, ()


def _is_running(thread: int, frame: FrameType) -> bool:
    running = sys._current_frames().get(thread)
    while running is not None and running is not frame:
        running = running.f_back
    return running is frame
