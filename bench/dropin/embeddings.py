"""Embeddings beside pytorch-metric-learning, sentence-transformers and lightly.

Data are normal around class centres. The originals decide in fp32: where two distances are the
same to its last digits, FAISS may have them the other way round, which counts as equal.
"""

from collections.abc import Callable
from typing import Any

import torch
from lightly.utils.benchmarking.knn import knn_predict as lightly_knn_predict  # pyright: ignore[reportMissingImports]
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator  # pyright: ignore
from pytorch_metric_learning.utils.inference import FaissKNN  # pyright: ignore
from sentence_transformers import util  # pyright: ignore[reportMissingImports]
from torch import Tensor
from torch.nn import functional as F

from flashmatch import PrototypeBank
from flashmatch.adapters import lightly, sentence_transformers
from flashmatch.adapters.pytorch_metric_learning import KNN

from .pairs import Case, Pair

CLASSES = 100
METRICS = ("precision_at_1", "r_precision", "mean_average_precision_at_r")


def _draw(rows: int, channels: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Unit vectors (rows, channels), three times as far from their centre as it is from 0."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (rows,), generator=generator)
    centres = torch.randn(CLASSES, channels, generator=generator)
    noise = torch.randn(rows, channels, generator=generator)
    return F.normalize(centres[labels] + 3 * noise), labels


def _neighbours() -> Pair:
    x, _ = _draw(5000, 128)
    original, ours = FaissKNN(), KNN()
    return Pair(
        lambda: original(x, 50, x, True), lambda: ours(x, 50, x, True), _share_of_neighbours
    )


def _accuracy(k: str | None) -> Pair:
    x, labels = _draw(5000, 128)

    def calculate(knn: object) -> Callable[[], object]:
        settings = {"include": METRICS, "k": k, "device": torch.device("cpu"), "knn_func": knn}
        calculator = AccuracyCalculator(**settings)
        return lambda: calculator.get_accuracy(x, labels)

    return Pair(calculate(FaissKNN()), calculate(KNN()), _share_of_metrics)


def _search(prepared: bool) -> Pair:
    drawn, _ = _draw(100500, 384)
    queries, corpus = drawn[:500], drawn[500:]
    ours = PrototypeBank(corpus, progress=False) if prepared else corpus
    return Pair(
        lambda: util.semantic_search(queries, corpus, top_k=10),
        lambda: sentence_transformers.semantic_search(queries, ours, top_k=10),
        _share_of_ids,
    )


def _mining() -> Pair:
    x, _ = _draw(10000, 384)
    return Pair(
        lambda: util.paraphrase_mining_embeddings(x, max_pairs=50000, top_k=10),
        lambda: sentence_transformers.paraphrase_mining_embeddings(x, max_pairs=50000, top_k=10),
        _share_of_pairs,
    )


def _prediction(prepared: bool) -> Pair:
    drawn, labels = _draw(50512, 512)
    queries, features, labels = drawn[:512], drawn[512:], labels[512:]
    columns = features.T.contiguous()
    bank = PrototypeBank(features, metric="dot", progress=False) if prepared else columns
    # Classes that got no vote come in any order; the best five got some.
    return Pair(
        lambda: lightly_knn_predict(queries, columns, labels, CLASSES)[:, :5],
        lambda: lightly.knn_predict(queries, bank, labels, CLASSES)[:, :5],
        _share_of_entries,
    )


def _share_of_entries(original: Any, ours: Any) -> float:
    return original.eq(ours).double().mean().item()


def _share_of_neighbours(original: Any, ours: Any) -> float:
    near = (original[0] - ours[0]).abs() <= 1e-6  # of unit vectors, in fp32
    return (near & (original[1].eq(ours[1]) | _is_twin(ours[0]))).double().mean().item()


def _is_twin(distances: Tensor) -> Tensor:
    """Is the distance that of the rank before or after, or the last, to the digits of fp32?"""
    same = distances.diff(dim=1) <= 1e-6
    return F.pad(same, (1, 0), value=False) | F.pad(same, (0, 1), value=True)


def _share_of_metrics(original: Any, ours: Any) -> float:
    return sum(abs(ours[name] - value) <= 1e-6 for name, value in original.items()) / len(ours)


def _share_of_ids(original: Any, ours: Any) -> float:
    ids = (
        torch.tensor([[match["corpus_id"] for match in matches] for matches in found])
        for found in (original, ours)
    )
    return _share_of_entries(*ids)


def _share_of_pairs(original: Any, ours: Any) -> float:
    pairs = [{(i, j) for _, i, j in found} for found in (original, ours)]
    return len(pairs[0] & pairs[1]) / max(map(len, pairs))


PML, ST, LIGHTLY = "pytorch-metric-learning", "sentence-transformers", "lightly"
MINING, BANK = "paraphrase_mining_embeddings", ", bank prepared before"
SEARCH_SIZE, PREDICTION_SIZE = "500 x 100000 x 384, k = 10", "512 x 50000 x 512, k = 200"
CASES = [
    Case(f"{PML} FaissKNN", PML, "5000 among themselves x 128, k = 50", _neighbours),
    Case(
        f"{PML} AccuracyCalculator", PML, "5000 x 128, k = max_bin_count",
        lambda: _accuracy("max_bin_count"),
    ),
    Case(f"{PML} AccuracyCalculator", PML, "5000 x 128, k = all", lambda: _accuracy(None)),
    Case(f"{ST} semantic_search", ST, SEARCH_SIZE, lambda: _search(False)),
    Case(f"{ST} semantic_search{BANK}", ST, SEARCH_SIZE, lambda: _search(True)),
    Case(f"{ST} {MINING}", ST, "10000 x 384, top_k = 10, max_pairs = 50000", _mining),
    Case(f"{LIGHTLY} knn_predict", LIGHTLY, PREDICTION_SIZE, lambda: _prediction(False)),
    Case(f"{LIGHTLY} knn_predict{BANK}", LIGHTLY, PREDICTION_SIZE, lambda: _prediction(True)),
]  # fmt: skip
