"""What the device is, as torch, the driver and Python tell it."""

import json
import platform
import shutil
import subprocess
from pathlib import Path

import torch

from measuring import ledger
from providers.registry import absent, select

PROPERTIES = {
    "name": "name",
    "SMs": "multi_processor_count",
    "memory (bytes)": "total_memory",
    "L2 (bytes)": "L2_cache_size",
    "shared memory per block, opt-in (bytes)": "shared_memory_per_block_optin",
    "shared memory per SM (bytes)": "shared_memory_per_multiprocessor",
    "registers per SM": "regs_per_multiprocessor",
    "threads per SM": "max_threads_per_multi_processor",
}
SMI = (
    "driver_version", "clocks.current.sm", "clocks.max.sm", "clocks.current.memory",
    "clocks.max.memory", "power.limit", "temperature.gpu",
)  # fmt: skip


def run(device: torch.device, folder: Path) -> int:
    """Print the facts and keep them as ``facts.json``."""
    found = facts(device)
    for name, value in found.items():
        print(f"{name}: {value}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "facts.json").write_text(json.dumps(found, indent=1))
    return 0


def facts(device: torch.device) -> dict[str, str]:
    """Name to value, "unknown" for what nobody tells."""
    found = {"device": ledger.device_name(device)}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {k: str(getattr(properties, v, "unknown")) for k, v in PROPERTIES.items()}
        found["capability"] = ".".join(map(str, torch.cuda.get_device_capability(device)))
        found |= smi()
    return found | {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "CUDA of torch": str(torch.version.cuda),
        "triton": ledger.version_of("triton"),
        "commit": ledger.commit(),
        "providers": ", ".join(p.name for p in select(device)),
        "absent": ", ".join(absent(device)) or "none",
    }


def smi() -> dict[str, str]:
    """What nvidia-smi says of the first device; names it does not know are left out."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return {"nvidia-smi": "not installed"}
    found = {}
    for name in SMI:  # one by one: an unknown name fails the whole query
        query = [program, f"--query-gpu={name}", "--format=csv,noheader", "--id=0"]
        try:
            done = subprocess.run(query, capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return found | {"nvidia-smi": "does not answer"}
        if done.returncode == 0 and done.stdout.strip():
            found[name] = done.stdout.strip().splitlines()[0]
    return found
