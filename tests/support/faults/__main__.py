"""``python -m faults``: so many trials of each kind, in a process each; prints counts."""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from screens import SMALL

from faults import corrupt, defects, extremes, images, interrupt, kill, race
from flashmatch.kernels.torch_backend import plan

IN_A_FOLDER = {"corruptions": corrupt, "images": images, "kills": kill, "interrupts": interrupt}
KINDS = (*IN_A_FOLDER, "threads", "extremes")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corruptions", type=int, default=1000, help="damaged files")
    parser.add_argument("--images", type=int, default=1000, help="damaged images")
    parser.add_argument("--kills", type=int, default=200, help="processes killed while saving")
    parser.add_argument("--interrupts", type=int, default=200, help="at random instants")
    parser.add_argument("--threads", type=float, default=60, help="seconds of 8 threads")
    parser.add_argument("--extremes", type=int, default=1000, help="problems of extreme numbers")
    parser.add_argument("--seed", type=int, default=None, help="default: the clock's")
    parser.add_argument("--only", choices=KINDS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    seed = int(time.time()) if arguments.seed is None else arguments.seed
    if arguments.only:
        for name, value in SMALL.items():
            setattr(plan, name, value)
        print(json.dumps(trials(arguments.only, getattr(arguments, arguments.only), seed)))
        return 0
    print(f"seed {seed}")
    failed = False
    for kind in KINDS:
        amount = getattr(arguments, kind)
        if amount <= 0:
            continue
        started = time.monotonic()
        counts = in_a_process(kind, amount, seed)
        failed |= bool(defects(counts))
        for what, count in sorted(counts.items()):
            print(f"{kind:12} {count:7} {what}")
        print(f"{kind:12} {time.monotonic() - started:7.0f} s", flush=True)
    return int(failed)


def in_a_process(kind: str, amount: float, seed: int) -> dict[str, int]:
    """A crash is counted, and ends only its own kind."""
    amount = str(amount if kind == "threads" else int(amount))
    command = [sys.executable, "-m", "faults", "--only", kind, f"--{kind}", amount]
    run = subprocess.run([*command, "--seed", str(seed)], stdout=subprocess.PIPE, text=True)
    if run.returncode:
        return {f"CRASHED with {run.returncode}": 1}
    return json.loads(run.stdout.splitlines()[-1])


def trials(kind: str, amount: float, seed: int) -> Counter[str]:
    with tempfile.TemporaryDirectory() as folder:
        if kind in IN_A_FOLDER:
            return IN_A_FOLDER[kind].run(int(amount), seed, Path(folder))
    return race.run(amount, seed) if kind == "threads" else extremes.run(int(amount), seed)


if __name__ == "__main__":
    sys.exit(main())
