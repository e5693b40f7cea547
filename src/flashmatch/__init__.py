"""Exact top-k matching for torch, and image retrieval on top of it."""

from importlib.metadata import version

from flashmatch.kernels import Matches, topk

__version__ = version("flashmatch")
__all__ = ["Matches", "__version__", "topk"]
