"""Exact top-k matching for torch, and image retrieval on top of it."""

from importlib.metadata import version

from flashmatch.kernels import (
    BankStats,
    Explanation,
    Hits,
    Matches,
    PrototypeBank,
    RangeMatches,
    count_within,
    topk,
    within,
)
from flashmatch.kernels.verify import Verification, verify
from flashmatch.retriever import DataSample, ImageToImageRetriever

__version__ = version("flashmatch")
__all__ = [
    "BankStats",
    "DataSample",
    "Explanation",
    "Hits",
    "ImageToImageRetriever",
    "Matches",
    "PrototypeBank",
    "RangeMatches",
    "Verification",
    "__version__",
    "count_within",
    "topk",
    "verify",
    "within",
]
