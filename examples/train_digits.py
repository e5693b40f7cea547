"""Train an encoder through the retriever, and watch recall@1 rise.

    python examples/train_digits.py

Data: the 1,797 handwritten digits, 8 x 8 pixels, that ship with scikit-learn. Every second one is
the gallery and the training set, the others are queries; a query is found if its best match shows
the same digit. Embeddings have only four numbers, so an untrained encoder does not get far.
"""

import argparse
import sys
from importlib.util import find_spec

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from flashmatch import ImageToImageRetriever
from flashmatch.retriever import LossHead


class ProxyLoss(nn.Module):
    """Softmax over the cosines between an embedding and one learned direction per class."""

    def __init__(self, channels: int, classes: int, temperature: float = 0.1) -> None:
        super().__init__()
        self.proxies = nn.Parameter(torch.randn(classes, channels))
        self.temperature = temperature

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        cosines = F.normalize(embeddings) @ F.normalize(self.proxies).T
        return F.cross_entropy(cosines / self.temperature, labels)


def build_encoder(channels: int = 4) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, channels),
    )


def split_digits() -> tuple[TensorDataset, TensorDataset]:
    """Gallery and queries, as images (N, 1, 8, 8) uint8 in 0..255 and labels (N,)."""
    from sklearn.datasets import load_digits

    pixels, digits = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels * 255 / 16).to(torch.uint8).reshape(-1, 1, 8, 8)
    labels = torch.from_numpy(digits)
    return TensorDataset(images[::2], labels[::2]), TensorDataset(images[1::2], labels[1::2])


def recall_at_1(
    retriever: ImageToImageRetriever, queries: TensorDataset, gallery: TensorDataset
) -> float:
    """The share of queries whose best match has their label."""
    images, labels = queries.tensors
    best = torch.stack([sample.pred_label[0] for sample in retriever.predict(images)])
    return float((gallery.tensors[1][best] == labels).float().mean())


def main(epochs: int = 8, seed: int = 0) -> tuple[float, float]:
    """Recall@1 before and after training."""
    torch.manual_seed(seed)
    gallery, queries = split_digits()
    retriever = ImageToImageRetriever(
        image_encoder=build_encoder(),
        prototype=DataLoader(gallery, batch_size=256),
        head=LossHead(ProxyLoss(channels=4, classes=10)),
        data_preprocessor={"mean": [78], "std": [96]},
        topk=1,
    )
    before = recall_at_1(retriever, queries, gallery)
    print(f"untrained        recall@1 {before:.3f}")

    optimizer = torch.optim.AdamW(retriever.parameters(), lr=3e-3)
    for epoch in range(epochs):
        retriever.train()
        total = 0.0
        for batch in DataLoader(gallery, batch_size=64, shuffle=True):
            data = retriever.data_preprocessor(batch, training=True)
            loss = retriever(**data, mode="loss")["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += float(loss.detach()) * len(data["inputs"])
        print(f"epoch {epoch + 1:2d}         loss {total / len(gallery):.3f}")

    retriever.prepare_prototype()  # the encoder has changed, so the gallery is encoded anew
    after = recall_at_1(retriever, queries, gallery)
    print(f"trained          recall@1 {after:.3f}")
    return before, after


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train an encoder on digits")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if not find_spec("sklearn"):
        sys.exit(f'{sys.argv[0]} needs scikit-learn: pip install "flashmatch[examples]"')
    main(**vars(options))
