"""Rankings drawn at random, and metrics of one query in plain loops."""

import math

import torch
from torch import Tensor

from flashmatch.retriever import metrics as m
from flashmatch.retriever.metrics import Relevance

QUERIES, PROTOTYPES, CLASSES, RANKS = 41, 67, 9, 13


def random_batch(
    seed: int, queries: int = QUERIES, ranks: int = RANKS
) -> tuple[Tensor, Tensor, Tensor]:
    """Rankings with some tails of -1, and labels; some classes have no prototype."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(queries, PROTOTYPES, generator=generator).argsort(1)[:, :ranks]
    present = torch.randint(0, 3 * ranks, (queries, 1), generator=generator)
    indices = order.masked_fill(torch.arange(ranks) >= present, -1)
    query_labels = torch.randint(-2, CLASSES, (queries,), generator=generator)
    prototype_labels = torch.randint(-2, CLASSES - 2, (PROTOTYPES,), generator=generator)
    return indices, query_labels, prototype_labels


def wanted_of(query_labels: Tensor, prototype_labels: Tensor) -> list[set[int]]:
    labels = prototype_labels.tolist()
    return [{i for i, p in enumerate(labels) if p == q} for q in query_labels.tolist()]


def per_query(batch: Relevance, k: int) -> dict[str, Tensor]:
    return {
        "hit_rate": m.hit_rate_at_k(batch.relevant, k),
        "recall": m.recall_at_k(batch.relevant, batch.total, k),
        "precision": m.precision_at_k(batch.relevant, k),
        "mAP": m.average_precision_at_k(batch.relevant, batch.total, k),
        "MRR": m.reciprocal_rank(batch.relevant, k),
    }


def random_votes(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    indices, queries, prototypes = random_batch(seed)
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(indices.shape, generator=generator).sort(1, descending=True).values
    scores = scores.masked_fill(indices < 0, -math.inf)
    return scores, indices, queries.clamp(min=0), prototypes.clamp(min=0)
