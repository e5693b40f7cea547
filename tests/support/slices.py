"""Slices of `bench gpu` whose parts are a few words of Python."""

import argparse

from gpu import run_parts
from gpu.parts import Part


def parsed(*words: str) -> argparse.Namespace:
    """The arguments of `bench gpu`."""
    parser = argparse.ArgumentParser()
    run_parts.add_arguments(parser)
    return parser.parse_args(words)


def stub(code: str, name: str = "stub", minutes: float = 1.0, **fields) -> Part:
    """A part that runs the code, in slice A."""
    return Part(name, minutes, "a stub", lambda _: ["-c", code], "A", **fields)
