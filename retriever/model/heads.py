"""Heads: what turns features and samples into losses."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ..batches.labels import labels_of
from ..configs import build_from_config


class LossHead(nn.Module):
    """A head around any ``loss(embeddings, labels)``, module or function.

    ``labels`` are class indices (N,), or scores (N, classes) after Mixup, CutMix or one-hot coding.
    """

    def __init__(self, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        if not callable(loss):
            raise TypeError(f"loss must be callable as loss(embeddings, labels); got {loss!r}")
        super().__init__()
        self.loss_fn = loss

    def loss(self, feats: Tensor | Sequence[Tensor], data_samples: Any) -> dict[str, Tensor]:
        """dict(loss=...) from features (N, C), or the last of several, and N samples or labels."""
        embeddings = feats if isinstance(feats, Tensor) else feats[-1]
        return {"loss": self.loss_fn(embeddings, labels_of(data_samples).to(embeddings.device))}


def build_head(head: nn.Module | Mapping[str, Any] | None) -> nn.Module | None:
    """The retriever's ``head``: a module with ``loss(feats, data_samples)``, or a dict for one.

    Raises:
        TypeError: anything else.
    """
    built = build_from_config(head, "head") if isinstance(head, Mapping) else head
    if built is None or (isinstance(built, nn.Module) and callable(getattr(built, "loss", None))):
        return built
    raise TypeError(
        "head must be a module with a method loss(feats, data_samples), a config dict or None "
        f"(LossHead wraps a plain loss(embeddings, labels)); got {type(built).__name__}"
    )
