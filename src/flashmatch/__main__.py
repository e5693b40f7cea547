"""The command line: ``flashmatch demo`` and ``info``, or ``python -m flashmatch demo``."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from flashmatch import __version__
from flashmatch.kernels.machine import report
from flashmatch.retriever.demo.options import DemoError, Options
from flashmatch.retriever.demo.run import run


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 if it worked, 2 if what it was given cannot work."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.command is None:
        parser.print_help()
        return 0
    if arguments.command == "info":
        print(report())
        return 0
    options = Options(**{field.name: getattr(arguments, field.name) for field in fields(Options)})
    try:
        run(options)
    except DemoError as error:
        print(f"flashmatch demo: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flashmatch", description="Exact top-k matching, and image retrieval on top of it."
    )
    parser.add_argument("--version", action="version", version=f"flashmatch {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command")
    commands.add_parser("info", help="what this machine has, and how it will be searched")
    _add_demo(commands.add_parser("demo", help="find distorted photographs in a gallery"))
    return parser


def _add_demo(demo: argparse.ArgumentParser) -> None:
    default = Options()
    demo.description = (
        "Encodes photographs and tiles of them, searches with distorted copies, and prints how "
        "many were found, how fast, and in how much memory; writes a page that shows them."
    )
    add = demo.add_argument
    add("--images", type=Path, metavar="DIR", help="your photographs instead of the shipped ones")
    add("--query", type=Path, metavar="FILE", help="only find what is most like this image")
    add("--out", type=Path, metavar="DIR", default=default.out, help="the page's folder")
    add("--no-html", dest="html", action="store_false", help="write no page")
    for name, what in (
        ("topk", "matches per query"),
        ("queries", "how many distorted copies"),
        ("gallery", "add tiles until the gallery has so many images"),
        ("image-size", "pixels a side that the encoder sees"),
        ("enlarged", "rows of the enlarged gallery in the comparison; 0: none"),
        ("threads", "of torch; 0: its usual number or one, whichever encodes faster"),
        ("seed", "of everything random"),
    ):
        value = getattr(default, name.replace("-", "_"))
        add(f"--{name}", type=int, metavar="N", default=value, help=f"{what} (default: {value:,})")


if __name__ == "__main__":
    sys.exit(main())
