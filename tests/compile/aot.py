"""Compile what the launchers launch, for chips that are not here, and read what came out.

record() notes the launches of a search as the JIT specialises them; compile_launch() compiles one;
the report comes from cuobjdump and nvdisasm of the Triton wheel, or from the AMD assembly.
"""

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget

from flashmatch.kernels.triton_backend import stages, vector_search
from gpu.compile_ahead.recording import Job, compiled, nvidia, recorded

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
KERNELS = {
    name for module in (stages, vector_search) for name in vars(module) if name.endswith("_kernel")
}
COUNTED = "HMMA|HGMMA|UTCHMMA|IMMA|IGMMA|UTCIMMA|LDGSTS|UTMALDG|SHFL|FMNMX|IMNMX|VIMNMX|VIMNMX3"
WAVE = {"gfx942": 64, "gfx1100": 32}


class Launch(Job):
    """One specialisation: hashable, so that equal ones compile once."""

    @property
    def is_scan(self) -> bool:
        return self.kernel.startswith("scan")

    @property
    def variant(self) -> tuple[str, ...]:
        """The kernel, and which of its arguments are None: each makes other code of it."""
        return (self.kernel, *(name for name, value in self.constants.items() if value is None))

    def __str__(self) -> str:
        types = [
            self.signature[n] for n in ("queries", "prototypes", "sample") if n in self.signature
        ]
        consts = [
            f"{n}={v}"
            for n, v in self.constants.items()
            if n.isupper() and not n.startswith("TILE")
        ]
        return " ".join([self.kernel, *types, *consts])


@dataclass(frozen=True)
class Report:
    """What a compiled kernel uses."""

    registers: int
    spills: int  # bytes of stack, and on AMD vector registers: none are allowed
    shared_bytes: int
    instructions: dict[str, int]  # counted in the scans only: disassembling takes long


def record(search: Callable[[], object], arch: int | str = 90) -> set[Launch]:
    """The launches of ``search``, none of which is executed."""
    jobs = recorded(search, target_of(arch))
    return {Launch(job.module, job.kernel, job.specialisation) for job in jobs}


def target_of(arch: int | str) -> GPUTarget:
    return GPUTarget("hip", arch, WAVE[arch]) if isinstance(arch, str) else nvidia(arch)


def compile_launch(launch: Launch, arch: int | str) -> Report:
    done = compiled(launch, target_of(arch))
    shared = done.metadata.shared
    if isinstance(arch, str):
        return _amd_report(done.asm["amdgcn"], shared)
    return _nvidia_report(done.asm["cubin"], shared, launch.is_scan)


def _amd_report(assembly: str, shared: int) -> Report:
    (registers,) = map(int, re.findall(r"\.vgpr_count:\s+(\d+)", assembly))
    spills = map(int, re.findall(r"\.vgpr_spill_count:\s+(\d+)", assembly))
    scratch = map(int, re.findall(r"\.private_segment_fixed_size:\s+(\d+)", assembly))
    kinds = re.findall(r"^\s*v_(mfma|wmma)_(f32|i32)", assembly, re.M)
    counts = {"float": 0, "int8": 0}
    for _, kind in kinds:
        counts["int8" if kind == "i32" else "float"] += 1
    return Report(registers, sum(spills) + sum(scratch), shared, counts)


def _nvidia_report(cubin: bytes, shared: int, disassemble: bool) -> Report:
    """A stack is where registers spill to, and these kernels have no other use for one."""
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(cubin)
        usage = _run("cuobjdump", "-res-usage", file.name)
        sass = _run("nvdisasm", file.name) if disassemble else ""
    ((registers, stack),) = re.findall(r"REG:(\d+) STACK:(\d+)", usage)
    counts = Counter(re.findall(rf"\b({COUNTED})\b", sass))
    return Report(int(registers), int(stack), shared, dict(counts))


def _run(tool: str, *arguments: object) -> str:
    done = subprocess.run(
        [TOOLS / tool, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    return done.stdout + done.stderr
