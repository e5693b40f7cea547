"""Computing on a CPU in threads that are fit for it, in fresh ones where those at hand are not.

Two things make a thread unfit, and neither can be mended from Python:

- It, or one that shares its work, reads and writes numbers below 2^-126 as zero, as
  ``torch.set_flush_denormal(True)`` and libraries compiled with -ffast-math ask of it. The threads
  that it starts meanwhile do so for as long as they live.
- It is what a fork left of a process, without the threads that shared its work. torch would wait
  for them forever (GNU OpenMP).

A fresh thread starts with none that share its work, and those that torch gives it are fresh, too.
"""

import os
import threading
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from .fresh_threads import fresh_threads

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

SHARED_ELEMENTS = 1 << 15
"""From here on torch shares an operation among threads."""

_SMALLEST_NORMAL = 2.0**-1022

_this_thread = threading.local()
"""``forked``: its threads are lost; ``looked_at``: how many shared its work when none flushed."""


def in_fit_thread(
    tensors: Sequence[Tensor],
    call: Callable[_Arguments, _Result],
    *args: _Arguments.args,
    **kwargs: _Arguments.kwargs,
) -> _Result:
    """What ``call`` returns: in this thread, or where it is unfit, in a fresh one, for half a ms.

    ``tensors``: the matrices that it works on, queries first; none if they are not known. It stays
    in this thread where the first lies elsewhere than on the CPU: there it computes. A fresh thread
    has this one's stream of a GPU. Gradients are not recorded there.

    Raises RuntimeError where numbers below 2^-126 cannot be had at all.
    """
    if torch.compiler.is_compiling():  # what is called here decides by numbers: no graph has it
        call = torch.compiler.disable(call)  # pyright: ignore[reportAssignmentType]
    if tensors and tensors[0].device.type != "cpu":
        return call(*args, **kwargs)
    if not _flushes() and _were_others_fit():
        return call(*args, **kwargs)
    elements = _most_elements(tensors)
    if not _flushes() and _are_others_fit(elements):
        return call(*args, **kwargs)
    stream = torch.cuda.current_stream() if torch.cuda.is_initialized() else None

    def checked() -> _Result:
        torch.set_flush_denormal(False)
        if _flushes() or not _are_others_fit(elements):
            raise RuntimeError(
                "exact scores need numbers below 2^-126, which are flushed to zero here, and torch "
                "cannot change that"
            )
        with torch.cuda.stream(stream):
            return call(*args, **kwargs)

    with fresh_threads(1) as executor:
        return executor.submit(checked).result()


def are_denormals_kept() -> bool:
    """Whether this thread, and those that share its work, keep numbers below 2^-126."""
    return not _flushes() and _are_others_fit(SHARED_ELEMENTS)


def _most_elements(tensors: Sequence[Tensor]) -> int:
    """Of what can be made of these: scores, or the matrices themselves."""
    if not tensors:
        return SHARED_ELEMENTS
    return sum(map(len, tensors)) * max(len(tensors[0]), tensors[0].shape[1])


def _flushes() -> bool:
    return _SMALLEST_NORMAL * 0.5 == 0.0


def _were_others_fit() -> bool:
    """Whether the threads that share this one's work have been looked at, and are still there."""
    return getattr(_this_thread, "looked_at", 0) == torch.get_num_threads()


def _are_others_fit(elements: int) -> bool:
    """Whether the threads that will share this one's work are there, and do not flush.

    They are looked at once, and again where there are more of them.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        _this_thread.looked_at = 1
    if threads == 1 or elements < SHARED_ELEMENTS:
        return True
    if getattr(_this_thread, "forked", False):
        return False
    if not _were_others_fit():
        shared = torch.full(
            (threads * SHARED_ELEMENTS,), 2.0**-126, dtype=torch.float32, device="cpu"
        )
        if bool((shared.mul_(0.5) == 0).any()):
            return False
        _this_thread.looked_at = threads
    return True


def _note_fork() -> None:
    _this_thread.forked = True
    _this_thread.looked_at = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)
