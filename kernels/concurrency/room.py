"""Memory that states share: filled once, and claimed before it is filled.

A state never changes. The next one of a bank shares the tensors of the last, with more behind what
the last one reads; whoever wants to write there claims it first, and copies if it is taken.
"""


class Room:
    """How much of some tensors is taken, from their start, by anybody."""

    def __init__(self, taken: int) -> None:
        self._ends = {taken: True}  # where the free part begins; nowhere for a moment

    def claim(self, start: int, stop: int) -> bool:
        """Whether start..stop were free, behind all that was taken; they are the caller's now."""
        if not self._ends.pop(start, False):  # one step: one of two threads gets it
            return False
        self._ends[stop] = True
        return True

    def __reduce__(self) -> tuple[type["Room"], tuple[int]]:
        return Room, (next(iter(self._ends), -1),)
