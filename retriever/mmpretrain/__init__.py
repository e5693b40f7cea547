"""ImageToImageRetriever for mmpretrain and mmengine: their configs, registries, loops and samples.

    model = dict(type="flashmatch.ImageToImageRetriever", ...)  # the rest as it was

Importing this package registers the class, and evaluators that read ranked labels; mmengine imports
it for that prefix, by way of flashmatch.registry.
"""

from .metrics import RetrievalAveragePrecision, RetrievalRecall
from .retriever import ImageToImageRetriever

__all__ = ["ImageToImageRetriever", "RetrievalAveragePrecision", "RetrievalRecall"]
