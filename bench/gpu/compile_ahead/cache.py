"""Triton's cache of compiled kernels, where it was carried along."""

import json
from pathlib import Path


def relocate(cache: Path) -> int:
    """Let the index files of ``cache`` name their neighbours where they now lie; how many do.

    Triton writes absolute paths, and takes a kernel for missing whose files are not there.
    """
    indices = list(cache.glob("*/__grp__*.json"))
    for index in indices:
        names = json.loads(index.read_text())["child_paths"]
        here = {name: str(index.parent.absolute() / name) for name in names}
        index.write_text(json.dumps({"child_paths": here}))
    return len(indices)
