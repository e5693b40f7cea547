"""Exact top-k matching for torch, and image retrieval on top of it."""

from importlib.metadata import version

from flashmatch.kernels import Matches, topk
from flashmatch.retriever import DataSample, ImageToImageRetriever

__version__ = version("flashmatch")
__all__ = ["DataSample", "ImageToImageRetriever", "Matches", "__version__", "topk"]
