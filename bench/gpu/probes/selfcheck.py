"""The check of every kernel on this device, as users have it before their first search."""

from pathlib import Path
from typing import Any

import torch

from ..figures import figure, write

PART = "selfcheck"


def run(device: torch.device, folder: Path, tiny: bool = False) -> int:
    """1 if the check finds a fault: the torch backend would then search on this device."""
    from flashmatch.kernels import selfcheck

    if tiny:
        _check_one()
    report = selfcheck(device)
    print(report)
    status = "ok" if report else f"failed: {len(report.failures)}, first {report.failures[0]}"
    write([figure(device, PART, "selfcheck", "", report.seconds, "s", status)], folder)
    return 0 if report else 1


def _check_one() -> None:
    """Interpreted, a variant takes as long as all of them on a device."""
    from flashmatch.kernels.triton_backend.selfcheck.checks import variants

    module: Any = variants
    every = module.defaults
    module.defaults = lambda chip: every(chip)[-1:]
