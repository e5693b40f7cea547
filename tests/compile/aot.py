"""Compile what the launchers launch, for chips that are not here, and read what came out.

record() runs a search whose kernels only note their arguments; compile_launch() compiles such a
launch for a target with the specialisation the JIT would choose; the report comes from cuobjdump
and nvdisasm of the Triton wheel, or from the AMD assembly.
"""

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.tools.tensor_descriptor import TensorDescriptor

from flashmatch.kernels.triton_backend import float_search, int8_search, launches

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
LAUNCHERS = (float_search, launches, int8_search)
KERNELS = {
    name: (module, kernel)
    for module in LAUNCHERS
    for name, kernel in vars(module).items()
    if name.endswith("_kernel")
}
COUNTED = "HMMA|HGMMA|UTCHMMA|IMMA|IGMMA|UTCIMMA|LDGSTS|UTMALDG|SHFL|FMNMX|IMNMX|VIMNMX|VIMNMX3"
WAVE = {"gfx942": 64, "gfx1100": 32}
POINTERS = {
    torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.float32: "*fp32",
    torch.float64: "*fp64", torch.int32: "*i32", torch.int64: "*i64", torch.uint8: "*u8",
    torch.int8: "*i8", torch.int16: "*i16",
}  # fmt: skip


@dataclass(frozen=True)
class Launch:
    """One specialisation: hashable, so that equal ones compile once."""

    kernel: str
    signature: tuple[tuple[str, str], ...]
    constexprs: tuple[tuple[str, Any], ...]
    divisible: tuple[str, ...]  # arguments known to be multiples of 16
    options: tuple[tuple[str, int], ...]

    @property
    def is_scan(self) -> bool:
        return self.kernel.startswith("scan")

    @property
    def variant(self) -> tuple[str, ...]:
        """The kernel, and which of its arguments are None: each makes other code of it."""
        return (self.kernel, *(name for name, value in self.constexprs if value is None))

    def __str__(self) -> str:
        types = [t for n, t in self.signature if n in ("queries", "prototypes", "unit")]
        consts = [
            f"{n}={v}" for n, v in self.constexprs if n.isupper() and not n.startswith("TILE")
        ]
        return " ".join([self.kernel, *types, *consts])


@dataclass(frozen=True)
class Report:
    """What a compiled kernel uses."""

    registers: int
    spills: int  # bytes of stack, and on AMD registers: none are allowed
    shared_bytes: int
    instructions: dict[str, int]  # counted in the scans only: disassembling takes long


def record(search: Callable[[], object]) -> set[Launch]:
    """The launches of ``search``, none of which is executed."""
    launches: set[Launch] = set()

    class Recorder:
        def __init__(self, name: str, kernel: Any) -> None:
            self.name, self.kernel = name, kernel

        def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
            return lambda *args, **kwargs: launches.add(
                _specialise(self.name, self.kernel, args, kwargs)
            )

    with pytest.MonkeyPatch.context() as patch:
        for name, (module, kernel) in KERNELS.items():
            patch.setattr(module, name, Recorder(name, kernel))
        search()
    return launches


def _specialise(name: str, kernel: Any, args: tuple, kwargs: dict[str, Any]) -> Launch:
    """The JIT's rules: 1 becomes a constant, multiples of 16 are hinted, unless told otherwise."""
    given = dict(zip([p.name for p in kernel.params], args, strict=False)) | kwargs
    signature, constexprs, divisible = [], [], []
    for param in kernel.params:
        value = given.pop(param.name)
        if param.is_constexpr:
            constexprs.append((param.name, value))
        elif isinstance(value, torch.Tensor):
            signature.append((param.name, POINTERS[value.dtype]))
            divisible += [param.name] * (value.data_ptr() % 16 == 0)
        elif isinstance(value, TensorDescriptor):
            shape = ",".join(map(str, value.block_shape))
            signature.append((param.name, f"tensordesc<{POINTERS[value.base.dtype][1:]}[{shape}]>"))
        elif isinstance(value, float):
            signature.append((param.name, "fp32"))
        elif value is None or (value == 1 and not param.do_not_specialize):
            constexprs.append((param.name, value))
        else:
            signature.append((param.name, "i32" if value < 2**31 else "i64"))
            divisible += [param.name] * (value % 16 == 0 and not param.do_not_specialize)
    options = tuple(sorted(given.items()))
    return Launch(name, tuple(signature), tuple(constexprs), tuple(divisible), options)


def compile_launch(launch: Launch, arch: int | str) -> Report:
    _, kernel = KERNELS[launch.kernel]
    names = [p.name for p in kernel.params]
    constexprs = dict(launch.constexprs)
    signature = {n: dict(launch.signature).get(n, "constexpr") for n in names}
    source = ASTSource(
        kernel,
        signature,
        constexprs={(names.index(n),): v for n, v in constexprs.items()},
        attrs={(names.index(n),): [["tt.divisibility", 16]] for n in launch.divisible},
    )
    is_hip = isinstance(arch, str)
    target = GPUTarget("hip", arch, WAVE[arch]) if is_hip else GPUTarget("cuda", arch, 32)
    compiled = triton.compile(source, target=target, options=dict(launch.options))
    shared = compiled.metadata.shared
    if is_hip:
        return _amd_report(compiled.asm["amdgcn"], shared)
    return _nvidia_report(compiled.asm["cubin"], shared, launch.is_scan)


def _amd_report(assembly: str, shared: int) -> Report:
    (registers,) = map(int, re.findall(r"\.vgpr_count:\s+(\d+)", assembly))
    spills = map(int, re.findall(r"\.[sv]gpr_spill_count:\s+(\d+)", assembly))
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
