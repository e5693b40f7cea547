"""What FAISS's scripts import from ``faiss.contrib`` for flat indexes.

The modules name where they import from in full: so they are the same under another module's name,
as after ``sys.modules["faiss"] = flashmatch.adapters.faiss``.
"""

from . import exhaustive_search, inspect_tools, torch_utils

__all__ = ["exhaustive_search", "inspect_tools", "torch_utils"]
