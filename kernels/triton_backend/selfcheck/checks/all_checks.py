"""All that a variant has to pass before anybody is given its answers."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .answers import wrong_answers
from .int8_entries import wrong_entries
from .preparation import wrong_preparation
from .settling import wrong_settling
from .tf32_entries import wrong_bounds
from .variants import TF32, WHOLE, Variant


@torch.no_grad()
def failures(variant: Variant, device: torch.device) -> list[str]:
    """What is wrong with a variant on a device, in words; every check is made, whatever it finds.

    Raises what Triton or the device raises where a kernel does not compile or run.
    """
    with torch.device("cpu"), _searching(device):  # whatever device is the caller's default
        return list(found(variant, device))


def found(variant: Variant, device: torch.device) -> Iterator[str]:
    """The same, as each check finds it."""
    scanned = wrong_bounds if variant.screen == TF32 else wrong_entries
    checks = wrong_preparation, scanned, wrong_settling, wrong_answers
    for check in checks[-1:] if variant.screen == WHOLE else checks:
        for wrong in check(variant, device):
            yield f"{variant}: {wrong}"


@contextmanager
def _searching(device: torch.device) -> Iterator[None]:
    """On this device, for which a check may wait, whatever the caller forbids himself."""
    if device.type != "cuda":
        yield
        return
    forbidden = torch.cuda.get_sync_debug_mode()
    with torch.cuda.device(device):
        torch.cuda.set_sync_debug_mode("default")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(forbidden)
