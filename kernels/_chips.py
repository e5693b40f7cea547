"""What chips can do, by their data sheets, for the model of the Triton body.

Dense rates, never sparse ones, with fp32 sums for fp16 products. Sources: NVIDIA's data sheets and
white papers of A100 80 GB SXM, H100 SXM5, H200 SXM, L4, L40S, GeForce RTX 4090 (Ada) and HGX B200;
the CUDA programming guide's tables for what a multiprocessor holds; AMD's MI300X data sheet and
CDNA 3 white paper. The B200's multiprocessors, cache and bandwidth are what the device reports.

No vendor publishes the bandwidth of a cache but AMD. Those of A100 (5.4 TB/s), H200 (9.8) and L40
(5.2) are as measured by te42kyfo/gpu-benches, gpu-l2-cache; the others are taken from these.
"""

import re
from dataclasses import dataclass, replace
from typing import Protocol

from ._triton_tiles import HIP

KIB, MIB = 2**10, 2**20


@dataclass(frozen=True)
class Chip:
    """Published facts of one chip, in bytes, seconds and hertz; the last three are assumptions."""

    name: str  # a word or two of the device's own name
    arch: int  # as the plans name it
    multiprocessors: int
    clock: float  # at which the rates of tensor cores are quoted
    int8: float  # operations per second of tensor cores, as are the next two
    fp16: float
    tf32: float
    fp32: float  # FLOP/s outside tensor cores, as is the next
    fp64: float
    bandwidth: float  # bytes per second
    cache_bytes: int  # of the last cache that all multiprocessors share
    cache_bandwidth: float  # measured, or taken from a relative
    shared_per_block: int
    shared_per_multiprocessor: int
    threads: int = 2048  # per multiprocessor, at most
    registers: int = 65536  # of 32 bits per multiprocessor
    warp: int = 32  # threads
    reserved: int = KIB  # shared memory of each block that is not its own
    minmax_lanes: int = 64  # minima or maxima per multiprocessor and clock
    launch: float = 8e-6  # of a kernel, by the host: between torch.topk's own and one of Triton
    tensor_efficiency: float = 0.8  # of the peak: a bf16 product reaches 798 of 989 on an H100
    memory_efficiency: float = 0.9  # of the bandwidth: a copy reaches 3.0 of 3.35 TB/s there

    def scaled(self, multiprocessors: int) -> "Chip":
        """The same with more or fewer multiprocessors; memory and cache stay."""
        ratio = multiprocessors / self.multiprocessors
        rates = {n: getattr(self, n) * ratio for n in ("int8", "fp16", "tf32", "fp32", "fp64")}
        return replace(self, multiprocessors=multiprocessors, **rates)


class Properties(Protocol):
    """What this reads of ``torch.cuda.get_device_properties``."""

    name: str
    major: int
    minor: int
    multi_processor_count: int


A100 = Chip(
    "A100", 80, 108, 1.41e9, 624e12, 312e12, 156e12, 19.5e12, 9.7e12, 2.039e12,
    40 * MIB, 5.4e12, 163 * KIB, 164 * KIB,
)  # fmt: skip
H100 = Chip(
    "H100", 90, 132, 1.83e9, 1979e12, 989.5e12, 494.7e12, 66.9e12, 33.5e12, 3.35e12,
    50 * MIB, 9.8e12, 227 * KIB, 228 * KIB,
)  # fmt: skip
H200 = replace(H100, name="H200", bandwidth=4.8e12)
L4 = Chip(
    "L4", 89, 58, 2.04e9, 242e12, 121e12, 60e12, 30.3e12, 0.47e12, 0.3e12,
    48 * MIB, 2.1e12, 99 * KIB, 100 * KIB, threads=1536,
)  # fmt: skip
L40S = Chip(
    "L40S", 89, 142, 2.52e9, 733e12, 362e12, 183e12, 91.6e12, 1.43e12, 0.864e12,
    96 * MIB, 5.2e12, 99 * KIB, 100 * KIB, threads=1536,
)  # fmt: skip
RTX_4090 = Chip(
    "RTX 4090", 89, 128, 2.52e9, 660.6e12, 165.2e12, 82.6e12, 82.6e12, 1.29e12, 1.008e12,
    72 * MIB, 5.2e12, 99 * KIB, 100 * KIB, threads=1536,
)  # fmt: skip
B200 = Chip(
    "B200", 100, 148, 1.86e9, 4500e12, 2250e12, 1100e12, 80e12, 40e12, 7.67e12,
    126 * MIB, 11e12, 227 * KIB, 228 * KIB,
)  # fmt: skip
MI300X = Chip(
    "MI300X", HIP, 304, 2.1e9, 2614.9e12, 1307.4e12, 653.7e12, 163.4e12, 81.7e12, 5.3e12,
    256 * MIB, 17.2e12, 64 * KIB, 64 * KIB, registers=131072, warp=64, reserved=0,
)  # fmt: skip
CHIPS = (H100, H200, A100, RTX_4090, MI300X, L4, L40S, B200)


def chip_of(properties: Properties) -> Chip:
    """The chip that a device's name says, or else the nearest by capability and multiprocessors.

    Either with the device's own number of multiprocessors. Memory is that of the chip found: an
    H100 PCIe, say, is given the bandwidth of the SXM.
    """
    count = properties.multi_processor_count
    for chip in CHIPS:
        if re.search(rf"\b{chip.name}\b", properties.name):
            return chip if chip.multiprocessors == count else chip.scaled(count)
    if getattr(properties, "gcnArchName", "").startswith("gfx"):
        return replace(MI300X.scaled(count), name=properties.name)
    arch = 10 * properties.major + properties.minor

    def distance(chip: Chip) -> tuple[int, int]:
        return abs(chip.arch - arch), abs(chip.multiprocessors - count)

    nearest = min((chip for chip in CHIPS if chip.arch != HIP), key=distance)
    return replace(nearest.scaled(count), name=properties.name)
