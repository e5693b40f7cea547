"""The growth ledger as two figures: over prototypes, over queries; time left, memory right."""

import re
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from textwrap import fill

from measuring.ledger import Row, exact_share

INK = {
    "flashmatch.PrototypeBank": ("#c1121f", "o", 2.6),
    "flashmatch.topk": ("#f08c3a", "s", 2.6),
    "faiss IndexFlat": ("#1d4e89", "^", 1.6),
    "torch matmul+topk, normalised before": ("#5a8f69", "v", 1.6),
    "torch matmul+topk": ("#8ab89a", "D", 1.6),
    "torch cosine_similarity+sort": ("#7a7a7a", "x", 1.6),
}
FLOOR_MIB = 0.1  # a logarithmic axis has no zero


def plot(rows: Sequence[Row], stem: Path) -> list[Path]:
    """One PNG per axis that has at least two sizes; the other axis' size is the common one."""
    figures = []
    for name, letter, other in (("prototypes", "M", "Q"), ("queries", "Q", "M")):
        fixed = _commonest(other, rows)
        chosen = sorted(
            (row for row in rows if getattr(row, other) == fixed), key=attrgetter(letter)
        )
        if len({getattr(row, letter) for row in chosen}) > 1:
            path = stem.with_name(f"{stem.name}-{name}.png")
            figures.append(_figure(name, letter, chosen, path))
    return figures


def _commonest(letter: str, rows: Sequence[Row]) -> int:
    """The size of one letter at which the other letter takes the most sizes."""
    sizes: dict[int, set] = {}
    for row in rows:
        sizes.setdefault(getattr(row, letter), set()).add((row.Q, row.M))
    return max(sizes, key=lambda size: len(sizes[size]))


def _figure(name: str, letter: str, rows: Sequence[Row], path: Path) -> Path:
    from matplotlib.figure import Figure  # no global state, no display

    figure = Figure(figsize=(10, 5.8), dpi=160, layout="constrained")
    time, memory = figure.subplots(1, 2)
    for provider in INK:
        timed = [row for row in rows if row.provider == provider and row.median_ms is not None]
        if timed:
            _lines(time, memory, timed, letter)
    labels = ("time of a search (ms)", "memory it adds (MiB)")
    for panel, label in zip((time, memory), labels, strict=True):
        panel.set(xscale="log", yscale="log")
        panel.set_xlabel(f"{name}, {letter}", fontsize=13)
        panel.set_ylabel(label, fontsize=13)
        panel.tick_params(labelsize=12)
        panel.grid(True, alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    legend = time.get_legend_handles_labels()
    figure.legend(*legend, loc="outside upper center", ncols=2, fontsize=12, frameon=False)
    figure.supxlabel(fill(caption(rows, letter), 130), fontsize=9.5, color="#444444")
    figure.savefig(path)
    return path


def _lines(time, memory, timed: Sequence[Row], letter: str) -> None:
    provider = timed[0].provider
    color, marker, width = INK[provider]
    right = min(row.agreement or 0.0 for row in timed)
    label = provider if right == 1 else f"{provider} ({exact_share(right)} of the indices)"
    style = {"color": color, "marker": marker, "linewidth": width, "markersize": 6, "label": label}
    sizes = [getattr(row, letter) for row in timed]
    time.plot(sizes, [row.median_ms for row in timed], **style)
    quartiles = [row.p25 for row in timed], [row.p75 for row in timed]
    time.fill_between(sizes, *quartiles, color=color, alpha=0.15)
    seen = [row for row in timed if row.peak_mib is not None]
    peaks = [max(FLOOR_MIB, row.peak_mib or 0) for row in seen]
    memory.plot([getattr(row, letter) for row in seen], peaks, **style)


def caption(rows: Sequence[Row], letter: str) -> str:
    """What the numbers are of, and who stops where."""
    row = rows[0]
    fixed = [f"{name} = {getattr(row, name):,}" for name in ("Q", "M", "C", "k") if name != letter]
    versions = {"torch": row.torch}
    versions.update((re.split(r"[ .]", r.provider)[0], r.version) for r in rows)
    stops = {r.provider: r for r in reversed(rows) if r.median_ms is None}  # where first
    parts = [
        ", ".join([*fixed, row.metric, row.dtype]),
        row.device,
        ", ".join(f"{name} {version}" for name, version in versions.items()),
        f"commit {row.commit}, {row.date[:10]}",
        "medians of interleaved calls, quartiles shaded",
        "memory at its peak within a call, without what was prepared before it, "
        f"no less than {FLOOR_MIB} MiB drawn",
        *(
            f"{provider} stops at {getattr(r, letter):,}: {r.status.removeprefix('skipped: ')}"
            for provider, r in stops.items()
        ),
    ]
    return "; ".join(parts) + "."
