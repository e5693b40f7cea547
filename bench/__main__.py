"""``python bench run | gpu | probe | link``; see CONTRIBUTING.md.

Run as a folder, so that bench/ and not the checkout's root is on the import path.
"""

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path


def main() -> int:
    arguments = _parser().parse_args()
    if arguments.command == "link":
        from links import link

        print(link())
        return 0
    if find_spec("flashmatch") is None:  # a bare checkout
        from links import link

        sys.path.insert(0, str(link()))
    return {"run": _run, "gpu": _gpu, "probe": _probe}[arguments.command](arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="gate and time every provider on every shape")
    gpu = commands.add_parser("gpu", help="correctness, memcheck, benchmark on a CUDA device")
    gpu.add_argument("--part", choices=("correctness", "memcheck", "bench"), action="append")
    commands.add_parser("probe", help="small searches on a CUDA device, for memcheck")
    commands.add_parser("link", help="make build/links, the checkout under its installed names")
    run.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    for sub in (run, gpu):
        sub.add_argument("--shapes", nargs="+", metavar="QxMxC[/k[/metric[/dtype]]]", default=[])
        sub.add_argument("--providers", nargs="+", metavar="PART_OF_NAME", default=[])
        sub.add_argument("--quick", action="store_true", help="a few small shapes, not recorded")
        sub.add_argument("--minutes", type=float, default=9.0, help="begin no shape after this")
        sub.add_argument("--results", type=Path, help="folder of the ledger; bench/results")
        sub.add_argument("--dry-run", action="store_true", help="print only")
    return parser


def _run(arguments: argparse.Namespace) -> int:
    import torch

    import gpu
    import ledger
    import shapes
    from registry import absent, select
    from run import Bench, run
    from table import summary, table

    device = torch.device(arguments.device)
    if device.type == "cuda" and (reason := gpu.no_device()):
        print(reason)
        return 0
    sets = {
        ("cpu", False): shapes.CPU,
        ("cpu", True): shapes.QUICK,
        ("cuda", False): shapes.GPU,
        ("cuda", True): shapes.QUICK_GPU,
    }
    chosen = [shapes.parse(s) for s in arguments.shapes] or sets[device.type, arguments.quick]
    providers = select(device, arguments.providers)
    print(f"{ledger.device_name(device)}; absent: {', '.join(absent(device)) or 'none'}")
    bench = Bench(device, providers, budget=0.3 if arguments.quick else 1.0)
    everything = []
    for shape, rows in run(bench, chosen, arguments.minutes):
        print(f"\n{shape}\n\n{table(rows)}", flush=True)
        everything += rows
        if not (arguments.quick or arguments.dry_run):
            ledger.append(rows, arguments.results or ledger.RESULTS)
    print(f"\n{summary(everything)}")
    ours = [row for row in everything if row.provider.startswith("flashmatch")]
    return 0 if all(row.agreement in (1.0, None) for row in ours) else 1


def _gpu(arguments: argparse.Namespace) -> int:
    import gpu

    if reason := gpu.no_device():
        print(reason)
        return 0
    passed_on = ["--minutes", str(min(arguments.minutes, gpu.MINUTES))]
    for name in ("shapes", "providers"):
        if values := getattr(arguments, name):
            passed_on += [f"--{name}", *values]
    passed_on += ["--quick"] * arguments.quick + ["--dry-run"] * arguments.dry_run
    if arguments.results:
        passed_on += ["--results", str(arguments.results)]
    return gpu.run_parts(arguments.part or list(gpu.PARTS), passed_on)


def _probe(_: argparse.Namespace) -> int:
    import gpu

    if reason := gpu.no_device():
        print(reason)
        return 0
    return gpu.probe()


if __name__ == "__main__":
    sys.exit(main())
