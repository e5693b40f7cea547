"""Triton's cache of compiled kernels, where it is carried along.

An index file of each kernel names its other files by their absolute paths, and Triton takes a
kernel for missing whose files are not there.
"""

import json
from pathlib import Path

LOADED = (".cubin", ".hsaco", ".json", ".so")  # what Triton needs of what it compiled
_INDEX = "__grp__"


def placed(target: Path, content: bytes) -> bytes:
    """What a file of the cache has to hold where it lies at ``target``; all but an index: the same.

    An index names what was carried along alone, which is what Triton loads.
    """
    if not target.name.startswith(_INDEX):
        return content
    names = [name for name in json.loads(content)["child_paths"] if name.endswith(LOADED)]
    here = {name: str(target.parent.absolute() / name) for name in names}
    return json.dumps({"child_paths": here}).encode()


def relocate(cache: Path) -> int:
    """Let the indices of a folder that was moved name the files where they now lie; how many do."""
    indices = list(cache.glob(f"*/{_INDEX}*.json"))
    for index in indices:
        index.write_bytes(placed(index, index.read_bytes()))
    return len(indices)
