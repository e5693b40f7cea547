"""The model's stage times for chips that need not be there: predictions, no measurements."""

from collections.abc import Sequence
from dataclasses import fields

from flashmatch.kernels._chips import CHIPS, Chip
from flashmatch.kernels._triton_model import Stages
from roofline import BANK, TOPK, predict
from shapes import Shape
from table import markdown

HEAD = ("chip", "search", *(f"{field.name} ms" for field in fields(Stages)), "predicted ms")


def chips(names: Sequence[str]) -> list[Chip]:
    """Those whose names contain one of ``names``, or all; ValueError where a name has none."""
    for name in names:
        if not any(name.lower() in chip.name.lower() for chip in CHIPS):
            known = ", ".join(chip.name for chip in CHIPS)
            raise ValueError(f"--chip must be part of one of {known}; got {name!r}")
    wanted = [name.lower() for name in names] or [""]
    return [chip for chip in CHIPS if any(name in chip.name.lower() for name in wanted)]


def run(names: Sequence[str], shapes: Sequence[Shape]) -> int:
    """Print a table for each shape."""
    chosen = chips(names)
    print("Predicted by a model from data sheets; nothing here was measured.")
    for shape in shapes:
        print(f"\n{shape}\n\n{markdown(HEAD, lines(shape, chosen))}", flush=True)
    return 0


def lines(shape: Shape, chosen: Sequence[Chip]) -> list[tuple[str, ...]]:
    """One for each chip and search that the model has a say in."""
    found = [
        (chip.name, provider, predict(shape, chip, provider))
        for chip in chosen
        for provider in (TOPK, BANK)
    ]
    return [(chip, name, *_milliseconds(stages)) for chip, name, stages in found if stages]


def _milliseconds(stages: Stages) -> list[str]:
    parts = [getattr(stages, field.name) for field in fields(stages)]
    return [f"{1e3 * seconds:.3g}" for seconds in (*parts, stages.total)]
