"""All that a variant has to pass before anybody is given its answers."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .answers import wrong_answers
from .float_bounds import wrong_float_bounds
from .int8_entries import wrong_entries
from .preparation import wrong_preparation
from .rescoring import wrong_rescoring
from .settling import wrong_settling
from .variants import Variant


@torch.no_grad()
def failures(variant: Variant, device: torch.device) -> list[str]:
    """What is wrong with a variant on a device, in words; every check is made, whatever it finds.

    Raises what Triton or the device raises where a kernel does not compile or run.
    """
    with torch.device("cpu"), _searching(device):  # whatever device is the caller's default
        return list(found(variant, device))


def found(variant: Variant, device: torch.device) -> Iterator[str]:
    """The same, as each check finds it."""
    of_screen = wrong_float_bounds, wrong_rescoring
    if variant.by_codes:
        of_screen = wrong_entries, wrong_settling
    for check in (wrong_preparation, *of_screen, wrong_answers):
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
