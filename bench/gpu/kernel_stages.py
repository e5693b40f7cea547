"""Which stage of a search each kernel belongs to, so that a profile says where the time went."""

import re
from collections.abc import Iterable

VENDOR = ("int8 product, one call", "int8 product, chunked")  # measured beside the stages
_KERNELS = {
    "prepare": r"(fit|order|code|scale|rotate|pack)_\w*kernel",
    "scan": r"scan_\w*kernel",
    "settle": r"settle_\w*kernel",
}
"""By stage, how the names of our kernels begin; they are named for what they do."""
STAGES = (*_KERNELS, "other")


def stage_of(kernel: str) -> str:
    """The stage of a kernel by its name in a profile; "other" for what is not a stage's own."""
    found = (stage for stage, pattern in _KERNELS.items() if re.match(pattern, kernel))
    return next(found, "other")


def by_stage(kernels: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Sums of (kernel name, time) per stage, every stage included."""
    sums: dict[str, float] = dict.fromkeys(STAGES, 0.0)
    for name, time in kernels:
        sums[stage_of(name)] += time
    return sums
