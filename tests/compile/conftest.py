"""Ahead-of-time compilation needs Triton itself; one process cannot interpret and compile."""

import importlib.util
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # for aot.py: test folders are no packages
# As it is unless set; but Triton 3.9 warns, since 3.10 will leave products and sums apart.
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")

if importlib.util.find_spec("triton") is None or os.environ.get("TRITON_INTERPRET") == "1":
    collect_ignore_glob = ["test_*.py"]
