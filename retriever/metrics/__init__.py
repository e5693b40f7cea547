"""Metrics of retrieval from the best matches alone: whole, in batches, in several processes.

``relevance`` says which matches are relevant; functions give one value for each query; the classes
here keep their means over any number of batches. Which of them equals which library's number is
told in docs/integrations/metrics.md.
"""

from .accumulate import KnnAccuracy, RetrievalMetrics
from .knn import class_ranks, knn_accuracy, knn_predict
from .ranking import (
    average_precision_at_k,
    hit_rate_at_k,
    precision_at_k,
    r_precision,
    recall_at_k,
    reciprocal_rank,
)
from .relevant import Relevance, relevance, relevance_to_targets

__all__ = [
    "KnnAccuracy",
    "Relevance",
    "RetrievalMetrics",
    "average_precision_at_k",
    "class_ranks",
    "hit_rate_at_k",
    "knn_accuracy",
    "knn_predict",
    "precision_at_k",
    "r_precision",
    "recall_at_k",
    "reciprocal_rank",
    "relevance",
    "relevance_to_targets",
]
