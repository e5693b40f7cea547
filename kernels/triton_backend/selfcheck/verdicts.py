"""What is believed of each device, for as long as the process lives."""

import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch

from ...concurrency.turn import Turn
from .. import chips
from . import verdict_file
from .checks import all_checks
from .checks.variants import Variant

OFF = "FLASHMATCH_SELFCHECK"
UNCHECKED = "its kernels are not checked yet, and cannot be while a stream is captured"


@dataclass
class Verdict:
    """Of one device."""

    kept: frozenset[str]  # passed, says the file
    passed: set[Variant] = field(default_factory=set)
    failed: tuple[str, ...] = ()  # what did, in words: no kernel of this device is believed


_verdicts: dict[torch.device, Verdict] = {}
_turn = Turn()


def is_off() -> bool:
    return os.environ.get(OFF) == "0"


def why_unproven(device: torch.device, variants: Iterable[Variant]) -> str:
    """Why answers of these variants cannot be believed there; nothing where they can.

    What was not checked is checked now. The first failure is warned of, and is the device's.
    """
    verdict = of_device(device)
    if verdict.failed:
        return verdict.failed[0]
    new = [variant for variant in variants if variant not in verdict.passed]
    if not new or is_off():
        return ""
    with _turn:
        reasons = (_why_unchecked(device, verdict, variant) for variant in new)
        return next(filter(None, reasons), "")


def _why_unchecked(device: torch.device, verdict: Verdict, variant: Variant) -> str:
    """The same of one, to which another thread may have seen meanwhile."""
    if verdict.failed:
        return verdict.failed[0]
    if variant in verdict.passed:
        return ""
    if str(variant) not in verdict.kept:
        if is_captured(device):
            return UNCHECKED
        wrong = found_wrong(device, variant)
        if wrong:
            withdraw(device, wrong)
            return wrong[0]
        verdict_file.add(device, [str(variant)])
    verdict.passed.add(variant)
    return ""


def found_wrong(device: torch.device, variant: Variant) -> list[str]:
    """What is wrong with a variant, what is raised included. Too little memory is no failure."""
    try:
        return all_checks.failures(variant, device)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        return [f"{variant}: {described(error)}"]


def described(error: Exception) -> str:
    """In one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def withdraw(device: torch.device, wrong: list[str]) -> None:
    """Believe no kernel there from now on, and say so once."""
    verdict = of_device(device)
    if verdict.failed:
        return
    verdict.failed = tuple(wrong)
    more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
    warnings.warn(
        f"flashmatch does not use its Triton kernels on {device} ({chips.name(device)}) in this "
        f"process: {wrong[0]}{more}. The torch backend searches there instead: the same answers, "
        "more slowly. Please report this message, and what `flashmatch info` prints, as an issue",
        RuntimeWarning,
        stacklevel=2,
    )


def restore(device: torch.device, passed: Iterable[Variant]) -> None:
    """Believe these, which were checked anew, whatever was before."""
    _verdicts.pop(device, None)
    passed = list(passed)
    verdict_file.add(device, map(str, passed))
    of_device(device).passed.update(passed)


def of_device(device: torch.device) -> Verdict:
    if device not in _verdicts:
        _verdicts[device] = Verdict(frozenset(verdict_file.read(device)))
    return _verdicts[device]


def is_captured(device: torch.device) -> bool:
    """Whether a CUDA graph is being made of what is launched now."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()
