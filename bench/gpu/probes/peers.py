"""Which peers run here at all: each searches once, alone, in a process of its own.

A peer built for another driver or device can end the process it is in. The parts that measure
leave out those whose process died, and so lose nothing.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from measuring.links import ROOT
from measuring.timing import OVER
from providers.provider import Provider
from providers.registry import absent, select

from ..parts import PEERS

SHAPE = "256x65536x128/10"
TINY = "8x500x32/3"
SECONDS = 30.0
UNTRIED = "not tried: no time left"


def run(device: torch.device, folder: Path, minutes: float, tiny: bool = False) -> int:
    """Write each provider's verdict to ``peers.json``; a peer that dies is news, not a failure."""
    end = time.monotonic() + 60 * minutes
    verdicts = {p.name: "not tried: no peer" for p in select(device) if not _is_foreign(p)}
    folder.mkdir(parents=True, exist_ok=True)
    foreign = list(filter(_is_foreign, select(device)))
    for provider in foreign[:1] if tiny else foreign:
        left = end - time.monotonic()
        verdicts[provider.name] = _verdict(provider, device, TINY if tiny else SHAPE, left)
        print(f"{provider.name}: {verdicts[provider.name]}", flush=True)
        (folder / PEERS).write_text(json.dumps(verdicts, indent=1))
    (folder / PEERS).write_text(json.dumps(verdicts, indent=1))
    print(f"absent: {', '.join(absent(device)) or 'none'}")
    if untried := [name for name, verdict in verdicts.items() if verdict == UNTRIED]:
        print(f"{minutes:.3g} {OVER}{', '.join(untried)}")
    return 0


def _is_foreign(provider: Provider) -> bool:
    return provider.module not in ("torch", "flashmatch")


def _verdict(provider: Provider, device: torch.device, shape: str, left: float) -> str:
    """Within the seconds left; a peer that was given less than SECONDS is not said to hang."""
    if left <= 0:
        return UNTRIED
    command = [sys.executable, str(ROOT / "bench"), "run", "--device", device.type, "--dry-run"]
    command += ["--shapes", shape, "--providers", provider.name]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONFAULTHANDLER": "1"},
        start_new_session=True,
    )
    try:
        out, _ = process.communicate(timeout=min(SECONDS, left))
    except BaseException as ended:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if not isinstance(ended, subprocess.TimeoutExpired):
            raise
        return f"hung: stopped after {SECONDS:.0f} s" if left >= SECONDS else UNTRIED
    if process.returncode:
        last = out.strip().splitlines()[-1:] or [""]
        return f"died ({process.returncode}): {last[0][:160]}"
    row = next((line for line in out.splitlines() if line.startswith(f"| {provider.name} |")), "")
    cells = [cell.strip() for cell in row.strip("| ").split(" | ")]
    return f"agreement {cells[1]}, {cells[2]} ms; {cells[-1]}" if len(cells) > 2 else "no row"
