"""Metrics of many queries beside torchmetrics, which takes one query at a time.

Ours always come five together; theirs are made one by one.
"""

import torch
from torchmetrics import Metric, retrieval  # pyright: ignore[reportMissingImports]

from flashmatch.retriever.metrics import RetrievalMetrics, relevance_to_targets

from .pairs import Case, Pair

QUERIES, MATCHES, K = 2000, 100, 10


def _prepare(original: type[Metric], name: str) -> Pair:
    generator = torch.Generator().manual_seed(0)
    order = torch.rand(QUERIES, MATCHES, generator=generator).argsort(1)
    targets = torch.rand(QUERIES, MATCHES, generator=generator) < 0.1
    scores = (MATCHES - order.argsort(1)) / MATCHES  # theirs are blind to scores of 0 and below
    queries = torch.arange(QUERIES)[:, None].expand_as(scores)

    def theirs() -> float:
        metric = original(top_k=K)
        metric.update(scores, targets, indexes=queries)
        return float(metric.compute())

    def ours() -> float:
        metrics = RetrievalMetrics(ks=(K,), ap_divisor="found")
        metrics.update(relevance_to_targets(order[:, :K], targets))
        return metrics.compute()[f"{name}@{K}"]

    return Pair(theirs, ours, _equal)


def _equal(original: float, ours: float) -> float:
    return float(abs(original - ours) <= 1e-6 * abs(ours))  # theirs is of fp32


def _case(original: type[Metric], name: str) -> Case:
    adapter = f"metrics: torchmetrics {original.__name__}"
    size = f"{QUERIES} queries x {MATCHES} prototypes, k = {K}"
    return Case(adapter, "torchmetrics", size, lambda: _prepare(original, name))


CASES = [_case(retrieval.RetrievalMAP, "mAP"), _case(retrieval.RetrievalRecall, "recall")]
