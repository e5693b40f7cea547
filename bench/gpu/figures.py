"""Figures of a device that are not the time of a search: ceilings, stages, memory, first calls."""

import csv
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
    return Figure(
        part=part,
        what=what,
        shape=str(shape),
        value=value,
        unit=unit,
        device=ledger.device_name(device),
        torch=torch.__version__,
        triton=ledger.version_of("triton"),
        commit=ledger.commit(),
        date=ledger.now(),
        status=status,
    )


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
    """All figures under a folder, oldest file first."""
    return [
        _read(line) for path in sorted(folder.glob("**/*-figures.csv")) for line in _lines(path)
    ]


def _lines(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _read(line: dict[str, str]) -> Figure:
    value = float(line["value"]) if line["value"] else None
    return Figure(**{**line, "value": value})  # type: ignore[arg-type]
