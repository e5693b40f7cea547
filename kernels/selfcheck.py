"""An explicit check of the Triton kernels on the user's own card."""

from dataclasses import dataclass
from time import perf_counter

import torch

from .triton_backend import chips


@dataclass(frozen=True)
class Selfcheck:
    """What a selfcheck found. True where every kernel is right."""

    device: torch.device
    passed: tuple[str, ...]
    """Variants: screen, metric, dtypes, mask, slots, tile."""
    failures: tuple[str, ...]
    """What is wrong, each with its variant."""
    seconds: float
    """Of all checks, what Triton compiled for them included."""

    def __bool__(self) -> bool:
        return not self.failures

    def __str__(self) -> str:
        count = len(self.passed) + len({wrong.partition(":")[0] for wrong in self.failures})
        head = f"{len(self.passed)} of {count} variants are right on {self.device}"
        return "\n".join([f"{head} ({self.seconds:.1f} s)", *self.failures])


def selfcheck(device: torch.device | str | int | None = None) -> Selfcheck:
    """Hold the Triton kernels against the contract on a card, in small searches that are hard.

    Every kernel is run for every metric, dtypes and masks in turn: its answers beside fp64, what a
    scan appends beside the formulas of ``proofs/`` to the bit, the sums of the tensor cores beside
    the error that the proofs allow them.

    A search does this by itself, for what it launches, before the first answer of a kernel on a
    card; ``<cache>/flashmatch/selfcheck-<device>.json`` spares later processes the same, as long as
    card, driver, torch, Triton and kernels stay what they were (``<cache>``: $FLASHMATCH_CACHE,
    $XDG_CACHE_HOME or ~/.cache). Where a check fails, or a kernel does not compile or run, a
    RuntimeWarning says so once, and the torch backend searches on that device, with the same
    answers. ``FLASHMATCH_SELFCHECK=0`` in the environment turns the checks before searches off, not
    this one. What this finds replaces what was known of the device in this process.

    Args:
        device: a CUDA or ROCm device that the Triton backend runs on; None = the current one. With
            TRITON_INTERPRET=1, the CPU.

    Returns:
        What was found. Holds less than 64 MiB. The first time on a card, Triton compiles some 40
        kernels for it; not measured on a GPU.

    Raises:
        ValueError: the Triton backend does not run on the device.
        torch.OutOfMemoryError: there is no room for the check.
    """
    found = chips.runnable(device)
    from .triton_backend.selfcheck import verdicts
    from .triton_backend.selfcheck.checks import variants

    started, passed, failures = perf_counter(), [], []
    for variant in variants.defaults(chips.chip(found)):
        wrong = verdicts.found_wrong(found, variant)
        failures += wrong
        passed += [] if wrong else [variant]
    seconds = perf_counter() - started
    verdicts.restore(found, passed)
    if failures:
        verdicts.withdraw(found, failures)
    return Selfcheck(found, tuple(map(str, passed)), tuple(failures), seconds)
