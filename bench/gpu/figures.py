"""Figures of a device that are not the time of a search: ceilings, stages, memory, first calls."""

from dataclasses import dataclass
from pathlib import Path

import torch

from measuring import ledger


@dataclass(frozen=True)
class Figure:
    part: str  # which part of `bench gpu` found it
    what: str
    shape: str  # of what, or ""
    value: float | None
    unit: str
    device: str
    torch: str
    triton: str
    commit: str
    date: str
    status: str  # "ok", or why there is no value


def figure(
    device: torch.device,
    part: str,
    what: str,
    shape: object,
    value: float | None,
    unit: str,
    status: str = "ok",
) -> Figure:
    """A figure found now, on this device, by this checkout."""
    origin = {**ledger.origin(device), "triton": ledger.version_of("triton")}
    return Figure(part, what, str(shape), value, unit, **origin, status=status)


def write(figures: list[Figure], folder: Path) -> None:
    """Append to the folder's figures, and print them."""
    if not figures:
        return
    ledger.append(figures, folder, "figures")
    for found in figures:
        value = "" if found.value is None else f"{found.value:.4g} {found.unit}"
        status = "" if found.status == "ok" else f" ({found.status})"
        print(f"{found.what} {found.shape}: {value}{status}", flush=True)


def read(folder: Path) -> list[Figure]:
    """The last figure of each kind under a folder, in the order in which the first were found."""
    paths = sorted(folder.glob("**/*-figures.csv"))
    found = [figure for path in paths for figure in ledger.read(path, Figure)]
    return list({(f.device, f.part, f.what, f.shape): f for f in found}.values())
