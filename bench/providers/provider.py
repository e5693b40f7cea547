"""Who is measured. A provider turns prototypes into a search; both are given by plain functions.

``prepare(prototypes, shape)`` is what may be done ahead of time and is not timed; the search it
returns is. A provider whose own interface takes raw vectors prepares nothing; where preparing is
much of the work, a second provider counts it. Scores come back larger-is-closer, indices as int64.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

from torch import Tensor
from torch.nn import functional as F

from measuring.memory import available_bytes
from measuring.shapes import Shape

Search = Callable[[Tensor], tuple[Tensor, Tensor]]
Product = Callable[[Tensor], Tensor]  # the arithmetic of a search, alone


class Unsupported(Exception):
    """This provider does not do this shape, by its own interface or for want of memory."""


@dataclass(frozen=True)
class Provider:
    name: str
    prepare: Callable[[Tensor, Shape], Search | Product]
    module: str = "torch"  # has to be importable
    distributions: tuple[str, ...] = ("torch",)  # the first installed one gives the version
    devices: tuple[str, ...] = ("cpu", "cuda")
    counted_by_torch: bool = True  # whether torch sees its device memory; else none is reported
    answers: bool = True  # False: a limit, which is timed beside the searches and finds nothing

    @property
    def available(self) -> bool:
        return find_spec(self.module) is not None


def require_room(size: int, what: str, like: Tensor) -> None:
    """Half of what is free may go to one provider: the others' copies are alive as well."""
    if size > available_bytes(like.device) // 2:
        raise Unsupported(f"{what} would take {size / 2**30:.0f} GiB")


def unit_if_cosine(rows: Tensor, shape: Shape) -> Tensor:
    return F.normalize(rows, eps=1e-8) if shape.metric == "cosine" else rows
