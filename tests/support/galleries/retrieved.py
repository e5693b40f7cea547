"""Retrievers of a small encoder, and what the original computes."""

import torch
from torch import Tensor, nn

from flashmatch.retriever import ImageToImageRetriever

SIMILARITIES = ("cosine_similarity", "dot_product", "euclidean_distance")


def original_scores(queries: Tensor, prototypes: Tensor) -> Tensor:
    """What mmpretrain computes: (N, M, C) at once."""
    return torch.cosine_similarity(queries.unsqueeze(1), prototypes.unsqueeze(0), dim=-1)


def assert_same_order(labels: Tensor, scores: Tensor, tolerance: float) -> None:
    """``labels`` (N, k) are the best of ``scores`` (N, M), but for swaps within ``tolerance``."""
    best = scores.sort(descending=True, dim=-1).values[:, : labels.shape[1]]
    torch.testing.assert_close(scores.gather(1, labels), best, rtol=0, atol=tolerance)
    for row in labels.tolist():
        assert len(set(row)) == len(row)


def encoder(channels: int = 7) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, channels))


def retriever_of(prototype, *, image_encoder=None, **options) -> ImageToImageRetriever:
    return ImageToImageRetriever(image_encoder or encoder(), prototype, progress=False, **options)
