"""Everything the parts found, in a table short enough for the end of a console."""

import json
from collections.abc import Sequence
from pathlib import Path

from measuring.ratios import ratio
from providers.ours import BANK, TOPK

from . import figures
from .archive import REHEARSED
from .bars import HELD, Faster, counts, faster, rows_of, scans
from .figures import Figure
from .kernel_stages import STAGES
from .part_process import before_in
from .parts import PARTS

WIDTH = 170  # characters of a line
REHEARSAL = "REHEARSED on a CPU: nothing here was measured"
LENGTH = 9000  # characters in all: a borrowed machine shows the last 12,000
FACTS = (
    "device", "capability", "SMs", "driver_version", "clocks.max.sm", "torch", "triton", "commit",
)  # fmt: skip


def table(folder: Path) -> str:
    """Sections for what is there; a part without rows has its outcome only."""
    found = figures.read(folder)
    figured = (read(found) for read in (_compiling, _ceilings, _memory, _stages, _tiles))
    sections = list(filter(None, (_parts(folder), _facts(folder), *figured, _bars(folder))))
    if not sections:
        return f"table: no part has written anything under {folder}"
    if (folder / REHEARSED).exists():
        sections.insert(0, [REHEARSAL])
    text = "\n\n".join("\n".join(line[:WIDTH] for line in section) for section in sections)
    if len(text) <= LENGTH:
        return text
    return text[:LENGTH].rsplit("\n", 1)[0] + "\n... the rest: python bench gpu --part bars"


def _parts(folder: Path) -> list[str]:
    """A line each; of several commits or devices, with the part's."""
    outcomes = list(filter(None, (before_in(folder / part.name) for part in PARTS)))
    where = {(o.commit, o.device) for o in outcomes}
    each = [f", {o.commit}, {o.device}" if len(where) > 1 else "" for o in outcomes]
    return [
        f"{o.name}: {o.verdict} ({o.minutes:.1f} min{at})"
        for o, at in zip(outcomes, each, strict=True)
    ]


def _facts(folder: Path) -> list[str]:
    path = folder / "facts" / "facts.json"
    if not path.is_file():
        return []
    found = json.loads(path.read_text())
    return [", ".join(f"{name} {found[name]}" for name in FACTS if name in found)]


def _ceilings(found: Sequence[Figure]) -> list[str]:
    lines: dict[str, list[str]] = {}
    for f in found:
        if f.part == "ceilings":
            what = f.what.replace(" product", "")
            lines.setdefault(f.shape, []).append(f"{what} {_value(f)}")
    return [f"{shape or 'launches'}: {', '.join(v)}" for shape, v in lines.items()]


def _compiling(found: Sequence[Figure]) -> list[str]:
    """Sums, what failed, and the three that took longest; then the selfcheck."""
    kept = [f for f in found if f.part == "warm-up"]
    each = sorted((f for f in kept if f.what == "compiling"), key=lambda f: -(f.value or 0))
    failed = [f"compiling {f.shape}: {f.status}" for f in each if f.status != "ok"]
    sums = [f"{f.what} {f.shape}".strip() + f" {_value(f)}" for f in kept if f not in each]
    longest = [f"{f.shape} {_value(f)}" for f in each[:3] if f.status == "ok"]
    line = ", ".join([*sums, *(["longest " + ", ".join(longest)] if longest else [])])
    checks = [f"selfcheck: {_value(f)}" for f in found if f.part == "selfcheck"]
    return [*([line] if line else []), *failed, *checks]


def _memory(found: Sequence[Figure]) -> list[str]:
    return [f"memory: {f.what} {f.shape}: {_value(f)}" for f in found if f.part == "memory"]


def _stages(found: Sequence[Figure]) -> list[str]:
    kept = [f for f in found if f.part == "stages"]
    values = {(f.shape, f.what): f.value for f in kept if f.value is not None}
    lines = [f"{f.what} {f.shape}: {f.status}" for f in kept if f.value is None]
    for shape in dict.fromkeys(f.shape for f in kept):
        for body in ("bank", "topk"):
            if (shape, f"{body}: kernels") in values:
                each = [f"{s} {values.get((shape, f'{body}: {s}'), 0):.3g}" for s in STAGES]
                whole, call = (values.get((shape, f"{body}: {w}"), 0) for w in ("kernels", "call"))
                lines.append(
                    f"{body} {shape}: call {call:.3g}, kernels {whole:.3g} ms = {', '.join(each)}"
                )
    return lines


def _tiles(found: Sequence[Figure]) -> list[str]:
    lines: dict[str, list[str]] = {}
    for f in found:
        if f.part == "tiles":
            what, at = f.what.removesuffix(": scan").split(", tile ")
            lines.setdefault(f"scan of {what} {f.shape}", []).append(f"tile {at} {_value(f)}")
    return [f"{name}: {', '.join(each)}" for name, each in lines.items()]


def _bars(folder: Path) -> list[str]:
    rows = rows_of(folder)
    lines = []
    for scan in scans(figures.read(folder)):
        against = f"{scan.times:.2f} of the vendor's {scan.vendor:.3g} ms"
        lines.append(f"scan {scan.shape}: {scan.scan:.3g} ms, {against}: {scan.verdict}")
    bank, topk = ({line.shape: line for line in faster(rows, ours)} for ours in (BANK, TOPK))
    for name, found in (("bank", bank), ("topk", topk)):
        if found:
            lines.append(f"{name}: {counts(found.values())}")
    for shape in {**bank, **topk}:
        both = [("bank", bank.get(shape)), ("topk", topk.get(shape))]
        peer = next((line.peer for _, line in both if line and line.peer), None)
        fastest = (
            f"{peer.provider} {peer.median_ms:.3g} ({peer.agreement:.4g})" if peer else "no peer"
        )
        each = [f"{name} {_short(line)}" for name, line in both if line]
        lines.append(f"{shape}: {'; '.join(each)}; {fastest}")
    return lines


def _short(line: Faster) -> str:
    if line.ours.median_ms is None:
        return line.ours.status[:60]
    times = f" {ratio(line.peer, line.ours).median:.2f}x" if line.peer else ""
    verdict = line.verdict if line.verdict == HELD else line.verdict.upper()
    return f"{line.ours.median_ms:.3g}{times} {verdict}"


def _value(f: Figure) -> str:
    if f.value is None:
        return f.status
    return f"{f.value:.4g} {f.unit}" + ("" if f.status == "ok" else f" ({f.status})")
