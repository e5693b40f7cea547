"""`python -m gpu.compile_ahead [ARCH [PROCESSES]]`, in bench/: how long slice A compiles."""

import heapq
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence

from . import Compiled, compile_all, jobs
from .pool import OK

CORES = 16


def main(arch: int = 90, processes: int = 1) -> int:
    """Print seconds by kernel, and those of 16 cores.

    Into $TRITON_CACHE_DIR, which a machine with the same Triton may take up, or else into a cache
    that begins empty and is dropped.
    """
    asked = jobs(arch)
    done = []
    with tempfile.TemporaryDirectory() as cache:
        os.environ.setdefault("TRITON_CACHE_DIR", cache)
        begun = time.monotonic()
        for one in compile_all(asked, arch, processes, until=begun + 3600):
            done.append(one)
            print(f"{one.seconds:7.2f} s  {one.status}  {one.name}", flush=True)
        took = time.monotonic() - begun
    print("\n" + by_kernel(done))
    print(
        f"{len(done)} kernels, {sum(one.seconds for one in done):.1f} s one by one, "
        f"{took:.1f} s here with {processes} at a time, "
        f"{makespan([one.seconds for one in done], CORES):.1f} s on {CORES} such cores"
    )
    return int(any(one.status != OK for one in done))


def by_kernel(done: Sequence[Compiled]) -> str:
    seconds = defaultdict(list)
    for one in done:
        seconds[one.name.split()[0]].append(one.seconds)
    rows = sorted(seconds.items(), key=lambda row: -sum(row[1]))
    return "\n".join(
        f"{name:32} {len(s):3} {sum(s):7.1f} s, at most {max(s):5.1f}" for name, s in rows
    )


def makespan(seconds: Sequence[float], cores: int) -> float:
    """When the last core is done, if each takes the slowest job that is left."""
    ends = [0.0] * cores
    for job in sorted(seconds, reverse=True):
        heapq.heapreplace(ends, ends[0] + job)
    return max(ends)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
