"""All that a variant has to pass before anybody is given its answers."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .answers import wrong_answers
from .float_bounds import wrong_float_bounds
from .int8_bounds import wrong_int8_bounds
from .preparation import wrong_preparation
from .rescoring import wrong_rescoring
from .variants import Variant


@torch.no_grad()
def failures(variant: Variant, device: torch.device) -> list[str]:
    """What is wrong with a variant on a device, in words; every check is made, whatever it finds.

    Raises what Triton or the device raises where a kernel does not compile or run.
    """
    wrong_bounds = wrong_int8_bounds if variant.by_codes else wrong_float_bounds
    with torch.device("cpu"), _searching(device):  # whatever device is the caller's default
        return [
            f"{variant}: {wrong}"
            for check in (wrong_preparation, wrong_bounds, wrong_rescoring, wrong_answers)
            for wrong in check(variant, device)
        ]


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
