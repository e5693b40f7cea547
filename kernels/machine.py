"""What this machine has, and what a search will make of it: a screenful, for bug reports."""

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from .concurrency.fit_thread import are_denormals_kept
from .dispatch import layout_for, why_no_triton
from .products import choice, fp64, halves, rounding
from .torch_backend import plan
from .torch_backend.cpu import plan as cpu_plan

_LIMITS = (
    "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA",
    "DNNL_MAX_CPU_ISA",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "DNNL_DEFAULT_FPMATH_MODE",
    "MKL_ENABLE_INSTRUCTIONS",
    "MKL_CBWR",
    "FBGEMM_ENABLE_INSTRUCTIONS",
    "NVIDIA_TF32_OVERRIDE",
    "CUBLAS_EMULATE_SINGLE_PRECISION",
    "CUBLAS_EMULATE_DOUBLE_PRECISION",
    "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "TRITON_INTERPRET",
    "FLASHMATCH_SELFCHECK",
)
_UNITS = ("avx2", "avx512", "avx512_bf16", "vnni", "amx_tile")
_CODES = {
    choice.INT_MM: "exact, by torch._int_mm",
    choice.FBGEMM: "exact, by fbgemm with queries of 7 bits",
    "": "not exact, so that int8 is refused",
}
_FORMATS = {0.0: "IEEE", rounding.TF32: "TF32 or better", rounding.BF16: "bf16 or better"}


def report() -> str:
    """About 20 lines of at most 100 characters."""
    from . import WORKSPACE_BYTES

    rows = [
        ("flashmatch", f"{_version('flashmatch')}, {_system()}"),
        ("CPU", f"{cpu_name()}; {_units()}"),
        ("threads", f"torch uses {torch.get_num_threads()} of {_processors()}"),
        ("torch", f"{torch.__version__}, {_libraries()}"),
        ("triton", _version("triton", "pytorch-triton", "pytorch-triton-rocm")),
        ("limits", ", ".join(f"{n}={os.environ[n]}" for n in _LIMITS if n in os.environ) or "none"),
        ("memory", f"a search holds at most {WORKSPACE_BYTES / 2**20:,.0f} MiB of its own"),
        *_searches(torch.device("cpu")),
    ]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            rows += _searches(torch.device("cuda", index))
    else:
        rows.append(("on cuda", "no device that torch sees"))
    return "\n".join(f"{name:<11}{text}" for name, text in rows)


def cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        found = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text())
        if found:
            return found[1].strip()
    return platform.processor() or platform.machine()


def _searches(device: torch.device) -> list[tuple[str, str]]:
    """Backend, screens and precision there, and why another was refused."""
    least = choice.least_channels(device.type)
    if not why_no_triton(device):
        banks = "int8 codes"
    elif layout_for(device, max(least, 64), "auto"):
        wide = f"{least} channels and " if least > 1 else ""
        least = cpu_plan.CODES_ELEMENTS // 2 if device.type == "cpu" else plan.CODES_ELEMENTS
        banks = f"int8 codes from {wide}{least:,} coordinates on, float with fewer"
    else:
        banks = f"float, since {choice.why_codes_are_slow(device.type)}"
    rounded = _FORMATS.get(rounding.operand_roundoff(device), "nothing known: fp64 scores all")
    emulated = "" if fp64.multiplies_in_fp64(device) else "; fp64's are emulated, and not used"
    rows = [
        (f"on {device}", f"{_backend(device)}{_name(device)}"),
        ("  banks", f'screen="auto" is {banks}'),
        ("  products", f"fp32 operands are rounded as {rounded}{emulated}"),
    ]
    if not why_no_triton(device):
        rows.append(("  kernels", _checked(device)))
    if device.type == "cpu":
        rows.append(("", f"of int8 are {_CODES[choice.product_of_codes('cpu')]}"))
        serve = "used, and larger searches rounded to it" if halves.serve() else "not used"
        rows.append(("", f"of bf16 are {serve}"))
        if not are_denormals_kept():
            rows.append(("", "denormals are flushed in this thread: another one searches"))
    return rows


def _backend(device: torch.device) -> str:
    if device.type != "cuda":
        return "torch"
    why_not = why_no_triton(device)
    if why_not:
        return f"torch, since {why_not}"
    from .triton_backend.rounds import MAX_K

    return f"Triton for k up to {MAX_K:,}, torch beyond"


def _checked(device: torch.device) -> str:
    from .triton_backend.selfcheck import verdict_file

    count, path = len(verdict_file.read(device)), verdict_file.path_for(device)
    if count == 0:
        return "none checked yet: flashmatch.kernels.selfcheck() does, and so do searches"
    return f"{count} variants checked, says {path}"


def _name(device: torch.device) -> str:
    if device.type != "cuda":
        return ""
    major, minor = torch.cuda.get_device_capability(device)
    memory = torch.cuda.get_device_properties(device).total_memory / 2**30
    return f" ({torch.cuda.get_device_name(device)}, sm_{major}{minor}, {memory:.0f} GiB)"


def _units() -> str:
    has = {unit: getattr(torch.cpu, f"_is_{unit}_supported", None) for unit in _UNITS}
    capability = torch.backends.cpu.get_cpu_capability()
    known = [unit.upper() for unit, asked in has.items() if asked is not None and asked()]
    return f"{', '.join(known) or 'no units of x86'}; torch uses {capability}"


def _libraries() -> str:
    has = {
        "MKL": torch.backends.mkl.is_available(),
        "oneDNN": torch.backends.mkldnn.is_available(),
        "OpenMP": torch.backends.openmp.is_available(),
    }
    return ", ".join(name if there else f"no {name}" for name, there in has.items())


def _processors() -> str:
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{count} processor{'s' * (count != 1)}"


def _system() -> str:
    python = platform.python_version()
    return f"Python {python}, {platform.system()} {platform.machine()}"


def _version(*distributions: str) -> str:
    for name in distributions:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "not installed"
