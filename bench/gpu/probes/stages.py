"""Where the time of a search goes on the device, stage by stage, and the vendor's product beside.

Times are sums of kernel times out of torch.profiler, so that waiting for launches is not in them;
"call" is the wall-clock of the whole call, measured without the profiler.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from statistics import median

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from measuring.ledger import described
from measuring.shapes import Shape, make
from measuring.timing import seconds_of, within
from providers.limits import int8_product, int8_product_chunked
from providers.provider import Unsupported, require_room

from ..figures import Figure, figure, write
from ..kernel_stages import STAGES, VENDOR, by_stage

PART = "stages"
SHAPES = (  # what is wanted most comes first; ../compile_ahead compiles for these
    Shape(16384, 100_000, 128),
    Shape(1024, 1_000_000, 768),
    Shape(2048, 10_000_000, 128),
    Shape(1, 10_000_000, 128),
    Shape(1024, 262144, 512),
    Shape(8192, 65536, 256, 16),
    Shape(10_000, 1_000_000, 128, 100),
    Shape(65536, 1000, 512, 5),
    Shape(16, 1000, 128),
    Shape(8192, 65536, 768, dtype="bfloat16"),
)
TINY = (Shape(20, 700, 64, 3),)
CALLS = 7  # of one session of the profiler
Kernels = list[tuple[str, float]]  # name and milliseconds


def run(device: torch.device, folder: Path, minutes: float, tiny: bool = False) -> int:
    """Figures of every body, shape by shape."""
    failed = 0
    for shape in within(minutes, TINY if tiny else SHAPES):
        for body, prepare in _calls(shape, device):
            try:
                made = _figures(body, shape, prepare(), device)
            except Unsupported as reason:
                made = [figure(device, PART, body, shape, None, "ms", f"skipped: {reason}")]
            except Exception as error:
                made = [figure(device, PART, body, shape, None, "ms", described(error))]
                failed += 1
            write(made, folder)
        torch.cuda.empty_cache()
    return 1 if failed else 0


def _calls(
    shape: Shape, device: torch.device
) -> Iterator[tuple[str, Callable[[], Callable[[], object]]]]:
    import flashmatch

    queries, prototypes = make(shape, device)

    def bank() -> Callable[[], object]:
        prepared = flashmatch.PrototypeBank(prototypes, nonfinite="exclude")
        return lambda: prepared.topk(queries, shape.k)

    def topk() -> Callable[[], object]:
        return lambda: flashmatch.topk(queries, prototypes, shape.k, nonfinite="exclude")

    yield "bank", bank
    yield "topk", topk

    def product() -> Callable[[], object]:
        require_room(4 * shape.Q * shape.M, "the int32 products", prototypes)
        return int8_product(shape, device)

    yield VENDOR[0], product
    yield VENDOR[1], lambda: int8_product_chunked(shape, device)


def _figures(
    body: str, shape: Shape, call: Callable[[], object], device: torch.device
) -> list[Figure]:
    """One figure per stage, of the median of several calls; of a product, of its one stage."""
    for _ in range(2):
        call()
    samples = [by_stage(kernels) for kernels in kernels_of(call)]
    sums = {stage: median(sample[stage] for sample in samples) for stage in STAGES}
    whole = median(sum(sample.values()) for sample in samples)
    status = "ok" if whole else "no kernels were seen"
    wall = 1e3 * median(seconds_of(call, device) for _ in range(CALLS))
    made = [figure(device, PART, f"{body}: call", shape, wall, "ms")]
    made.append(figure(device, PART, f"{body}: kernels", shape, whole or None, "ms", status))
    if whole and body not in VENDOR:
        made += [figure(device, PART, f"{body}: {s}", shape, sums[s], "ms") for s in STAGES]
    return made


def kernels_of(call: Callable[[], object]) -> list[Kernels]:
    """Names and milliseconds of what ran on the device, call by call, in one session."""
    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
        torch.cuda.synchronize()
    with profile(activities=activities) as seen:
        for _ in range(CALLS):
            call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    return in_calls(on_device(seen.events() or []), CALLS)


def in_calls(kernels: Kernels, calls: int) -> list[Kernels]:
    """Equal calls launch the same kernels in the same order: cut where each began.

    Where the names do not repeat so, there is one call, the mean of all.
    """
    each = len(kernels) // calls
    cut = [kernels[i * each : (i + 1) * each] for i in range(calls)]
    names = [[name for name, _ in one] for one in cut]
    if each * calls == len(kernels) and all(one == names[0] for one in names):
        return cut
    return [[(name, ms / calls) for name, ms in kernels]]


def on_device(events: Iterable) -> Kernels:
    """Of a profile's events, those of the device itself, in the order in which they began."""
    own = [
        event
        for event in events
        if event.device_type == DeviceType.CUDA and not event.name.startswith("ProfilerStep")
    ]
    own.sort(key=lambda event: event.time_range.start)
    return [(event.name, event.time_range.elapsed_us() / 1e3) for event in own]
