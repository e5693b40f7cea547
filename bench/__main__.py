"""``python bench``; CONTRIBUTING.md tells when each of its commands is of use.

Run as a folder, so that bench/ and not the checkout's root is on the import path.
"""

import argparse
import sys
import time
from importlib.util import find_spec
from pathlib import Path

from gpu import run_parts
from gpu.parts import PROBES
from measuring.instructions import LIMITS, limited_to, rerun
from measuring.links import link


def main() -> int:
    begun = time.monotonic()
    arguments = _parser().parse_args()
    if arguments.command == "link":
        print(link())
        return 0
    limit = getattr(arguments, "limited", None)
    if limit and limited_to() != limit:
        return rerun(limit)
    if find_spec("flashmatch") is None:  # a bare checkout
        sys.path.insert(0, str(link()))
    if arguments.command == "gpu":  # its parts are processes: what is broken here breaks one only
        return run_parts.main(arguments)
    if arguments.command == "probe":
        from gpu import probes

        return probes.main(arguments, begun)
    import commands

    if "minutes" in arguments:  # importing is part of them
        arguments.minutes -= (time.monotonic() - begun) / 60
    return commands.COMMANDS[arguments.command](arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="gate and time every provider on every shape")
    bars = commands.add_parser("bars", help="the shapes with bars, timed for longer")
    busy = commands.add_parser("busy", help="a search beside busy loops, and on one processor")
    growth = commands.add_parser("growth", help="time and memory as prototypes and queries grow")
    build = commands.add_parser("build", help="a bank from a file larger than it may hold")
    dropin = commands.add_parser(
        "dropin", help="each adapter beside its original, other calls beside their peers"
    )
    commands.add_parser(
        "host", help="what a search by Triton costs the host, with stubs of kernels"
    )
    run_parts.add_arguments(
        commands.add_parser("gpu", help="all to settle on a CUDA device, in parts")
    )
    probe = commands.add_parser("probe", help="one of gpu's parts, in this process")
    probe.add_argument("kind", choices=PROBES)
    probe.add_argument("--device", default="cuda", choices=("cpu", "cuda"))
    probe.add_argument("--tiny", action="store_true", help="the smallest shapes")
    probe.add_argument("--first", type=int, metavar="N", help="only N searches, of `search`")
    commands.add_parser("link", help="make build/links, the checkout under its installed names")
    run.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    for sub in (run, bars, busy):
        sub.add_argument("--shapes", nargs="+", metavar="QxMxC[/k[/metric[/dtype]]]", default=[])
        sub.add_argument("--limited", choices=LIMITS, help="with these instructions at most")
    for sub in (run, bars):
        sub.add_argument(
            "--base", metavar="COMMIT", help="ours beside a commit's; recorded under --results only"
        )
    run.add_argument(
        "--quick", action="store_true", help="four shapes, not recorded, in under a minute"
    )
    for sub in (run, bars, dropin):
        sub.add_argument("--providers", nargs="+", metavar="PART_OF_NAME", default=[])
    for sub in (run, bars, busy, growth, probe):
        sub.add_argument("--minutes", type=float, default=11.0, help="begin no shape after this")
    bars.set_defaults(minutes=20.0)
    for sub in (run, bars, growth, build, dropin, probe):
        sub.add_argument("--results", type=Path, help="folder of the ledger; bench/results")
    for sub in (run, bars, build, dropin):
        sub.add_argument("--dry-run", action="store_true", help="print only")
    busy.add_argument("--loops", type=int, default=2, help="processes that never rest")
    busy.add_argument("--held", action="store_true", help=argparse.SUPPRESS)
    growth.add_argument("--prototypes", nargs="*", type=int, help="the sizes that grow")
    growth.add_argument("--queries", nargs="*", type=int, help="the sizes that grow")
    growth.add_argument("--redraw", action="store_true", help="draw the last run again")
    build.add_argument("--rows", type=int, default=2_000_000)
    build.add_argument("--channels", type=int, default=512)
    build.add_argument("--folder", type=Path, help="where to write the file; a temporary one")
    build.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
