"""mmpretrain's ImageToImageRetriever.matching beside ours: `make` its environment, then

    .venv-mmpretrain/bin/python bench dropin --providers mmpretrain

The original needs three times N x M x C x 4 bytes: 4 GB for the largest of these.
"""

from collections.abc import Callable

import torch
from mmpretrain.models import ImageToImageRetriever as Original  # pyright: ignore
from torch import Tensor, nn

from flashmatch.retriever.mmpretrain import ImageToImageRetriever

from .pairs import Case, Pair

LABELS = 10
TIE = 4e-7  # of two cosines in fp32


def _case(queries: int, prototypes: int, channels: int, dense: bool) -> Case:
    adapter = f"mmpretrain matching, {'all scores' if dense else 'exact top-10'}"
    size = f"{queries} x {prototypes} x {channels}"
    return Case(adapter, "mmpretrain", size, lambda: _pair(queries, prototypes, channels, dense))


def _pair(queries: int, prototypes: int, channels: int, dense: bool) -> Pair:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(prototypes, channels, generator=generator)
    features = torch.randn(queries, channels, generator=generator)
    encoder = nn.Linear(channels, channels)
    original = Original(encoder, vectors, topk=LABELS)
    ours = ImageToImageRetriever(encoder, vectors, topk=LABELS, dense_scores=dense)
    original.prepare_prototype()
    ours.prepare_prototype()
    return Pair(_without_gradients(original, features), _without_gradients(ours, features), _share)


def _without_gradients(model: nn.Module, features: Tensor) -> Callable[[], dict[str, Tensor]]:
    return torch.no_grad()(lambda: model.matching(features))  # pyright: ignore


def _share(original: dict[str, Tensor], ours: dict[str, Tensor]) -> float:
    """How many of our first labels are the original's, or tie with them by its own scores."""
    mine = original["score"].gather(1, ours["pred_label"][:, :LABELS])
    return float((mine - original["pred_score"][:, :LABELS]).abs().le(TIE).double().mean())


CASES = [
    _case(queries, prototypes, channels, dense)
    for queries, prototypes, channels in ((1, 100_000, 512), (32, 12_612, 512), (64, 10_000, 512))
    for dense in (True, False)
]
