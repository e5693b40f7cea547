"""Time and memory of a search as the prototypes grow, and as the queries do.

The same gate, turns and rows as the benchmark's, in a ledger of their own. Who stops early has
the reason in the row.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from measuring import ledger
from measuring.ledger import Row
from measuring.shapes import Shape
from measuring.table import table
from providers.provider import Provider, Search, Unsupported
from providers.registry import select

from .growth_plot import plot
from .run import Bench, run

QUERIES, PROTOTYPES, CHANNELS = 64, 131072, 128
MORE_PROTOTYPES = (10_000, 30_000, 100_000, 300_000, 1_000_000, 2_000_000)
MORE_QUERIES = (1, 4, 16, 64, 256, 1024, 4096)
PROVIDERS = (
    "flashmatch.PrototypeBank",
    "flashmatch.topk",
    "faiss IndexFlat",
    "torch matmul+topk, normalised before",
    "torch matmul+topk",
    "torch cosine_similarity+sort",
)
SLOW_MS = 10_000  # who takes longer stops there
KIND = "growth"


def axes(prototypes: Sequence[int] | None, queries: Sequence[int] | None) -> list[list[Shape]]:
    """The shapes along each axis, smallest first."""
    more_prototypes = MORE_PROTOTYPES if prototypes is None else sorted(prototypes)
    more_queries = MORE_QUERIES if queries is None else sorted(queries)
    return [
        [Shape(QUERIES, M, CHANNELS) for M in more_prototypes],
        [Shape(Q, PROTOTYPES, CHANNELS) for Q in more_queries],
    ]


def measure(shapes: Sequence[Shape], providers: Sequence[Provider], minutes: float) -> Iterator:
    """The rows of one axis, shape by shape; who has become too slow is not asked again."""
    bench = Bench(torch.device("cpu"), providers)
    for shape, rows in run(bench, shapes, minutes):
        yield shape, rows
        slow = {row.provider: row for row in rows if (row.median_ms or 0) > SLOW_MS}
        bench.providers = [
            replace(p, prepare=partial(_refuse, slow[p.name])) if p.name in slow else p
            for p in bench.providers
        ]


def _refuse(row: Row, *_) -> Search:
    raise Unsupported(f"{row.Q} x {row.M} took {(row.median_ms or 0) / 1e3:.0f} s")


def record(axes: Sequence[Sequence[Shape]], folder: Path, minutes: float) -> None:
    providers = [p for p in select(torch.device("cpu")) if p.name in PROVIDERS]
    for shapes in axes:
        for shape, rows in measure(shapes, providers, minutes / len(axes)):
            print(f"\n{shape}\n\n{table(rows)}", flush=True)
            ledger.append(rows, folder, KIND)


def draw(folder: Path) -> int:
    """Draw this device's last run beside its rows; say in which files."""
    path = ledger.path_of(ledger.device_name(torch.device("cpu")), folder, KIND)
    for figure in plot(last_run(ledger.read(path)), path.with_suffix("")):
        print(figure)
    return 0


def last_run(rows: Sequence[Row]) -> list[Row]:
    """The newest row of each provider and shape, as far as they are of the newest commit."""
    newest = {(row.provider, row.Q, row.M): row for row in rows if row.commit == rows[-1].commit}
    return list(newest.values())
