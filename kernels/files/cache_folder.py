"""Where files lie that can be made again."""

import os
import re
from pathlib import Path


def cache_folder() -> Path:
    """$FLASHMATCH_CACHE, $XDG_CACHE_HOME or ~/.cache, and in it ``flashmatch``."""
    given = os.environ.get("FLASHMATCH_CACHE") or os.environ.get("XDG_CACHE_HOME")
    return Path(given or os.path.expanduser("~/.cache")) / "flashmatch"


def slug(name: str) -> str:
    """As a part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
