"""What each command does; imported once flashmatch can be."""

from argparse import Namespace
from collections.abc import Iterable, Sequence

import torch

from dropin import pairs
from gpu.run_parts import no_device
from measuring import ledger, shapes
from measuring.ledger import Row
from measuring.shapes import Shape
from measuring.table import is_ours, summary, table
from providers.registry import absent, select
from providers.torch_peers import ORIGINAL
from studies import bank_build, bars, busy, growth, host, two_commits
from studies.run import Bench, run
from studies.two_commits import Asked


def _run(arguments: Namespace) -> int:
    device = torch.device(arguments.device)
    on_cuda = device.type == "cuda"
    if on_cuda and (reason := no_device()):
        print(reason)
        return 0
    full, quick = (shapes.GPU, shapes.QUICK_GPU) if on_cuda else (shapes.CPU, shapes.QUICK)
    asked = [shapes.parse(text) for text in arguments.shapes]
    chosen = asked or (quick if arguments.quick else full)
    budget, least = 0.3 if arguments.quick or on_cuda else 0.7, 3
    if arguments.base:
        return _two_commits(arguments, device, chosen, budget, least)
    providers = select(device, arguments.providers)
    if arguments.quick and not arguments.providers:  # the original's formula takes most of a minute
        providers = [p for p in providers if p.name != ORIGINAL]
    bench = Bench(device, providers, budget, least)
    measured = run(bench, chosen, arguments.minutes)
    return _measure(arguments, device, measured, recorded=not arguments.quick)


def _bars(arguments: Namespace) -> int:
    chosen = bars.chosen([shapes.parse(text) for text in arguments.shapes])
    if arguments.base:
        asked = [bar.shape for bar in chosen]
        return _two_commits(arguments, bars.CPU, asked, bars.BUDGET, bars.LEAST)
    measured = bars.measure(chosen, arguments.providers, arguments.minutes)
    return _measure(arguments, bars.CPU, measured)


def _two_commits(
    arguments: Namespace, device: torch.device, chosen: Sequence[Shape], budget: float, least: int
) -> int:
    asked = Asked(chosen, arguments.providers, device, budget, least, arguments.minutes)
    return two_commits.run(arguments.base, asked, arguments.results)


def _measure(
    arguments: Namespace,
    device: torch.device,
    measured: Iterable[tuple[Shape, list[Row]]],
    recorded: bool = True,
) -> int:
    """Print and record the rows of each shape; fail if an answer of ours is wrong."""
    print(f"{ledger.device_name(device)}; absent: {', '.join(absent(device)) or 'none'}")
    everything = []
    for shape, rows in measured:
        print(f"\n{shape}\n\n{table(rows)}", flush=True)
        everything += rows
        if recorded and not arguments.dry_run:
            ledger.append(rows, arguments.results or ledger.RESULTS)
    print(f"\n{summary(everything)}")
    if device.type == "cpu":
        print(bars.report(everything))
    ours = [row for row in everything if is_ours(row)]
    return 0 if all(row.agreement in (1.0, None) for row in ours) else 1


def _busy(arguments: Namespace) -> int:
    chosen = [shapes.parse(text) for text in arguments.shapes] or busy.SHAPES
    if arguments.held:
        return busy.run_held(chosen, arguments.minutes)
    return busy.run(arguments.loops, chosen, arguments.minutes)


def _growth(arguments: Namespace) -> int:
    folder = arguments.results or ledger.RESULTS
    if not arguments.redraw:
        axes = growth.axes(arguments.prototypes, arguments.queries)
        growth.record(axes, folder, arguments.minutes)
    return growth.draw(folder)


def _build(arguments: Namespace) -> int:
    if arguments.measure:
        return bank_build.measure_here(arguments.measure)
    results = None if arguments.dry_run else arguments.results or ledger.RESULTS
    return bank_build.run(arguments.rows, arguments.channels, arguments.folder, results)


def _dropin(arguments: Namespace) -> int:
    results = None if arguments.dry_run else arguments.results or ledger.RESULTS
    return pairs.run(arguments.providers, results)


def _host(arguments: Namespace) -> int:
    return host.run()


COMMANDS = {
    "run": _run,
    "bars": _bars,
    "busy": _busy,
    "growth": _growth,
    "build": _build,
    "dropin": _dropin,
    "host": _host,
}
