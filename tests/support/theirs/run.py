"""The test files of a list, run in a process of their own with ours in place."""

import json
import os
import subprocess
import sys
from pathlib import Path

from .lists import NOT_RUN, Listing

SUPPORT = Path(__file__).parents[1]
SETTINGS = {
    "OMP_NUM_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "1",  # not beside what is installed
    "HF_HUB_OFFLINE": "1",  # what is not on this machine is left out anyway
    "SKLEARN_RUN_FLOAT32_TESTS": "1",
    "TEST_DEVICE": "cpu",
}
SECONDS = 600


def ends_of(listing: Listing, folder: Path, scratch: Path) -> dict[str, dict]:
    """How each test ended: see ``plugin``.

    Raises:
        RuntimeError: pytest did not come to its end; with the last of what it printed.
    """
    written = scratch / "ends.json"
    environment = os.environ | SETTINGS | {"PYTHONPATH": str(SUPPORT)}
    environment |= {"THEIRS_STAND_IN": listing.stand_in, "THEIRS_ENDS": str(written)}
    skipped = [f"--deselect={e.test}" for e in listing.entries if e.verdict == NOT_RUN]
    options = ["-q", "-c", os.devnull, f"--rootdir={folder}", "-p", "theirs.plugin"]
    options += ["-pno:cacheprovider", "--continue-on-collection-errors"]
    command = [sys.executable, "-m", "pytest", *options, *skipped, *listing.files]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS
    )
    if done.returncode not in (0, 1) or not written.exists():
        printed = (done.stdout + done.stderr)[-2000:]
        raise RuntimeError(f"pytest of {listing.name} ended with {done.returncode}: {printed}")
    return json.loads(written.read_text())
