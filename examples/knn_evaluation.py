"""Judge features as DINO's evaluation does: by the votes of an image's nearest neighbours.

    python examples/knn_evaluation.py
    python examples/knn_evaluation.py --encoder efficientnet-lite0

Data: the 1,797 handwritten digits, 8 x 8 pixels, that ship with scikit-learn. Every second one is
in the gallery, with its label; the others are queries. No training: features are the pixels
themselves, or what an encoder trained on photographs makes of them, enlarged.
"""

import argparse
import sys
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from flashmatch import PrototypeBank
from flashmatch.retriever import (
    EFFICIENTNET_LITE0_PREPROCESS,
    ImagePreprocessor,
    KnnAccuracy,
    RetrievalMetrics,
    build_encoder,
)
from flashmatch.retriever.metrics import relevance

DIGITS = 10


def digits_features(encoder: str) -> tuple[Tensor, Tensor]:
    """Features (N, C) and labels (N,) of all digits."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels * 255 / 16).float().reshape(-1, 1, 8, 8)
    if encoder == "pixels":
        return images.flatten(1), torch.from_numpy(labels)
    model = build_encoder(encoder).eval()
    preprocess = ImagePreprocessor(**EFFICIENTNET_LITE0_PREPROCESS)
    with torch.inference_mode():
        parts = [model(preprocess({"inputs": _enlarged(p)})["inputs"]) for p in images.split(64)]
    return torch.cat(parts), torch.from_numpy(labels)


def _enlarged(images: Tensor, size: int = 64) -> Tensor:
    """White on black, in three channels."""
    return F.interpolate(images, size=size, mode="bilinear").expand(-1, 3, -1, -1)


def evaluate(
    features: Tensor, labels: Tensor, k: int = 20, temperature: float = 0.07, batch_size: int = 256
) -> dict[str, float]:
    """Odd rows as queries among the even ones: votes of the best k, and recall among them."""
    bank, bank_labels = PrototypeBank(features[::2], metric="cosine"), labels[::2]
    accuracy = KnnAccuracy(DIGITS, topk=(1, 5), temperature=temperature)
    metrics = RetrievalMetrics(ks=(1, 5, k))
    queries = TensorDataset(features[1::2], labels[1::2])
    for batch, batch_labels in DataLoader(queries, batch_size=batch_size):
        scores, indices = bank.topk(batch, k)
        accuracy.update(scores, indices, batch_labels, bank_labels)
        metrics.update(relevance(indices, batch_labels, bank_labels))
    return {**accuracy.compute(), **metrics.compute()}


def main(encoder: str = "pixels", k: int = 20, temperature: float = 0.07) -> dict[str, float]:
    results = evaluate(*digits_features(encoder), k, temperature)
    print(f"{encoder}, {k} nearest neighbours, temperature {temperature}")
    for name, value in results.items():
        print(f"  {name:14} {value:.4f}")
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="k-nearest-neighbour evaluation on digits")
    parser.add_argument("--encoder", default="pixels", choices=("pixels", "efficientnet-lite0"))
    parser.add_argument("--k", type=int, default=20)
    parser.add_argument("--temperature", type=float, default=0.07)
    options = parser.parse_args()
    if not find_spec("sklearn"):
        sys.exit(f'{sys.argv[0]} needs scikit-learn: pip install "flashmatch[examples]"')
    if options.encoder != "pixels" and not find_spec("efficientnet_lite_pytorch"):
        sys.exit(
            f'{sys.argv[0]} needs efficientnet-lite-pytorch: pip install "flashmatch[examples]"'
        )
    main(**vars(options))
