"""States that follow one another: what is searched while it changes."""

from collections.abc import Callable
from typing import Generic, TypeVar

from .turn import Turn

_State = TypeVar("_State")
_Result = TypeVar("_Result")


class _Link(Generic[_State]):
    """A state, and the one that follows it: whoever is first says which."""

    def __init__(self, state: _State) -> None:
        self.state = state
        self._following: dict[None, _Link[_State]] = {}

    @property
    def following(self) -> "_Link[_State] | None":
        return self._following.get(None)

    def precede(self, link: "_Link[_State]") -> bool:
        """Whether ``link`` is what follows now. One step, which cannot be interrupted."""
        return self._following.setdefault(None, link) is link


class Succession(Generic[_State]):
    """States that never change, of which readers take the newest, and wait for nobody.

    A change makes the next one aside, and publishes it in one step: one that fails or is stopped
    anywhere changes nothing. Changes wait for one another; should two meet nevertheless, the second
    is made again from what the first left.
    """

    def __init__(self, state: _State) -> None:
        self._last, self._turn = _Link(state), Turn()

    @property
    def newest(self) -> _State:
        return self._newest().state

    def change(self, make: Callable[[_State], tuple[_State, _Result]]) -> _Result:
        """``make`` of the newest state the next, and what is returned."""
        with self._turn:
            while True:
                link = self._newest()
                state, result = make(link.state)
                following = _Link(state)
                if link.precede(following):
                    self._last = following  # a shortcut
                    return result

    def _newest(self) -> _Link[_State]:
        link = self._last
        while (following := link.following) is not None:
            link = following
        return link
