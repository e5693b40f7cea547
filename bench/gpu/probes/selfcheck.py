"""The check of every kernel on this device, as users have it before their first search."""

from pathlib import Path

import torch

from ..figures import figure, write

PART = "selfcheck"


def run(device: torch.device, folder: Path) -> int:
    """1 if the check finds a fault: the torch backend would then search on this device."""
    from flashmatch.kernels import selfcheck

    report = selfcheck(device)
    print(report)
    status = "ok" if report else f"failed: {len(report.failures)}, first {report.failures[0]}"
    write([figure(device, PART, "selfcheck", "", report.seconds, "s", status)], folder)
    return 0 if report else 1
