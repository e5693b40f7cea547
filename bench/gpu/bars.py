"""The bars on a GPU: faster than every peer at every shape, and a scan near the vendor's product.

Ratios are of medians from one process. A peer counts whatever its agreement, and beside the fastest
stands the fastest that is nearly right; ours has to be right in every place. The scan is held
against the faster of the vendor's int8 product in one call and chunk by chunk.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from measuring import ledger
from measuring.ledger import Row, by_shape
from measuring.ratios import ratio
from measuring.shapes import Shape, parse
from measuring.table import NEARLY, is_nearly_right, is_peer, markdown, median, short
from providers.ours import BANK, TOPK

from . import figures
from .figures import Figure
from .kernel_stages import VENDOR

OVER = 1.15  # times the vendor's product, at most, for the scan
MIN_Q, MIN_C = 1024, 512  # of the shapes whose scan has a bar
HEAD = ("shape", "ms (agreement)", "fastest peer", "times faster", "", "nearly right", "")
HELD, MISSED, ALONE = "held", "missed", "nothing to compare with"


@dataclass(frozen=True)
class Faster:
    """One of ours beside the fastest peer of its shape."""

    shape: Shape
    ours: Row
    peer: Row | None  # the fastest of all
    near: Row | None  # the fastest that is nearly right

    @property
    def times(self) -> str:
        return "" if self.peer is None else str(ratio(self.peer, self.ours))

    @property
    def verdict(self) -> str:
        return _verdict(self.ours, self.peer)

    @property
    def verdict_near(self) -> str:
        return _verdict(self.ours, self.near)


@dataclass(frozen=True)
class Scan:
    """The bank's scan beside the vendor's int8 product, in milliseconds."""

    shape: Shape
    scan: float
    vendor: float

    @property
    def times(self) -> float:
        return self.scan / self.vendor

    @property
    def verdict(self) -> str:
        return HELD if self.times <= OVER else MISSED


def rows_of(folder: Path) -> list[Row]:
    """The benchmark's rows under a folder of parts."""
    paths = sorted(set(folder.glob("bench-*/*.csv")) - set(folder.glob("*/*-figures.csv")))
    return [row for path in paths for row in ledger.read(path)]


def faster(rows: Iterable[Row], ours: str) -> list[Faster]:
    """A line per shape where ours was asked for, timed or not."""
    timed = by_shape(rows).items()
    return [_faster(shape, found, ours) for shape, found in timed if ours in found]


def _faster(shape: Shape, rows: dict[str, Row], ours: str) -> Faster:
    peers = [row for row in rows.values() if is_peer(row) and row.median_ms is not None]
    near = filter(is_nearly_right, peers)
    best, best_near = (min(found, key=median, default=None) for found in (peers, near))
    return Faster(shape, rows[ours], best, best_near)


def _verdict(ours: Row, peer: Row | None) -> str:
    if ours.median_ms is None:
        return ours.status
    if ours.agreement != 1:
        return f"{MISSED}: not exact"
    if peer is None:
        return ALONE
    return HELD if ratio(peer, ours).median > 1 else MISSED


def scans(found: Iterable[Figure]) -> list[Scan]:
    """The shapes with a bar for which both the scan and a product of the vendor's are known."""
    values = {(f.shape, f.what): f.value for f in found if f.value is not None}
    lines = []
    for text in dict.fromkeys(shape for shape, _ in values):
        scan = values.get((text, "bank: scan"))
        keys = [(text, f"{product}: kernels") for product in VENDOR]
        vendor = [values[key] for key in keys if key in values]
        if scan and vendor:
            shape = parse(text)
            if shape.Q >= MIN_Q and shape.C >= MIN_C:
                lines.append(Scan(shape, scan, min(vendor)))
    return lines


def counts(lines: Iterable[Faster]) -> str:
    """``held of all``, over every peer and over those nearly right."""
    lines = list(lines)
    strict = sum(line.verdict == HELD for line in lines)
    near = sum(line.verdict_near == HELD for line in lines)
    right = sum(line.ours.agreement == 1 for line in lines)
    return (
        f"faster than every peer at {strict} of {len(lines)} shapes, than every peer with "
        f"{NEARLY:.2f} of the indices at {near}; exact at {right}"
    )


def report(folder: Path) -> str:
    """The bars in full, as Markdown."""
    rows, texts = rows_of(folder), []
    for ours in (BANK, TOPK):
        lines = faster(rows, ours)
        texts.append(f"{ours}: {counts(lines)}")
        if lines:
            texts.append(markdown(HEAD, [_cells(line) for line in lines]))
    found = scans(figures.read(folder))
    held = sum(line.verdict == HELD for line in found)
    texts.append(
        f"scan within {OVER:g} of the vendor's int8 product: {held} of {len(found)} shapes"
    )
    if found:
        cells = [
            (str(s.shape), f"{s.scan:.3g}", f"{s.vendor:.3g}", f"{s.times:.2f}", s.verdict)
            for s in found
        ]
        texts.append(markdown(("shape", "scan ms", "vendor ms", "times", ""), cells))
    return "\n\n".join(texts)


def _cells(line: Faster) -> tuple[str, ...]:
    timed = line.ours.median_ms is not None
    return (
        str(line.shape),
        short(line.ours) if timed else line.ours.status,
        short(line.peer) if line.peer else "",
        line.times if timed else "",
        line.verdict,
        short(line.near) if line.near else "",
        line.verdict_near,
    )
