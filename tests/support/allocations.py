"""What torch holds while something runs."""

from collections.abc import Callable

import torch


def peak_bytes(call: Callable[[], object]) -> int:
    """The most memory torch's CPU allocator held at once beyond what it held before ``call``."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        call()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    assert events
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak
