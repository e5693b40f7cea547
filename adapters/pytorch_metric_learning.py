"""``knn_func`` of pytorch-metric-learning, exactly: for AccuracyCalculator and InferenceModel."""

import os

import torch
from torch import Tensor

from ..kernels import Matches, PrototypeBank, topk
from ..kernels.contract.arguments import require_choice, require_device, require_int
from ..kernels.contract.finite import NONFINITE
from ..kernels.contract.metrics import METRICS
from ..kernels.contract.naming import named
from ..retriever.metrics.labels import ranks_of_others
from ._arrays import as_vectors


class KNN:
    """Stands in for ``FaissKNN`` and ``CustomKNN`` of pytorch_metric_learning.utils.inference.

        AccuracyCalculator(knn_func=KNN())
        InferenceModel(trunk, knn_func=KNN("cosine"))

    ``AccuracyCalculator`` gives the references with each call. ``InferenceModel`` trains an index
    on them once: ``index``, a PrototypeBank, or None before that and after ``reset``.

    Args:
        metric: ``"l2"`` gives squared Euclidean distances, least first, as ``FaissKNN()`` does;
            ``"cosine"`` and ``"dot"`` give similarities, largest first, as ``CustomKNN`` does with
            ``CosineSimilarity()`` and ``DotProductSimilarity(normalize_embeddings=False)``.
        device: where the index searches; None = where the embeddings are that it is trained on,
            the CPU for one that is loaded.
        nonfinite: ``"raise"`` or ``"exclude"``, as of ``flashmatch.topk``.
    """

    def __init__(
        self,
        metric: str = "l2",
        *,
        device: torch.device | str | None = None,
        nonfinite: str = "raise",
    ) -> None:
        require_choice("metric", metric, METRICS)
        require_choice("nonfinite", nonfinite, NONFINITE)
        self.metric = metric
        self.device = None if device is None else require_device("device", device)
        self.nonfinite = nonfinite
        self.index: PrototypeBank | None = None

    @torch.no_grad()
    def __call__(
        self,
        query: Tensor,
        k: int,
        reference: Tensor | None = None,
        ref_includes_query: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """The k nearest references of each query.

        Args:
            query: (Q, C), floating.
            k: neighbours per query.
            reference: (M, C); None = what the index holds, which is left as it is otherwise too.
            ref_includes_query: reference i is query i for all i < Q, and does not count as its
                own neighbour. Duplicates of it elsewhere do.

        Returns:
            distances (Q, k) float32 and indices (Q, k) int64, best first, ties by lowest index, on
            the query's device.

        Raises:
            ValueError: neither references nor an index; k beyond the number of neighbours, which
                ``FaissKNN`` answers with index -1; and what ``flashmatch.topk`` refuses.
        """
        queries = as_vectors("query", query)
        with named(queries="query", prototypes="reference", nonfinite="nonfinite"):
            scores, indices = self._search(queries, k, reference, ref_includes_query)
        if ref_includes_query:
            own = torch.arange(len(indices), device=indices.device)
            others = ranks_of_others(indices, own)
            scores, indices = scores.gather(1, others), indices.gather(1, others)
        return (0 - scores if self.metric == "l2" else scores), indices

    def _search(self, queries: Tensor, k: int, reference: Tensor | None, own: bool) -> Matches:
        """One match more than k where a query's own is among them."""
        if reference is not None:
            references = as_vectors("reference", reference)
            wanted = _matches_wanted(k, len(references), own)
            return topk(queries, references, wanted, metric=self.metric, nonfinite=self.nonfinite)
        if self.index is None:
            raise ValueError("reference must be given where there is no index: train or load one")
        return self.index.topk(queries, _matches_wanted(k, len(self.index), own))

    def train(self, embeddings: Tensor) -> None:
        """Make the index anew of a copy of the embeddings (M, C)."""
        vectors = as_vectors("embeddings", embeddings).clone()
        with named(prototypes="embeddings", nonfinite="nonfinite"):
            self.index = PrototypeBank(
                vectors, metric=self.metric, device=self.device, nonfinite=self.nonfinite
            )

    def add(self, embeddings: Tensor) -> None:
        """Append a copy of the embeddings (m, C) to the index; make one where there is none."""
        if self.index is None:
            self.train(embeddings)
        else:
            with named(prototypes="embeddings", nonfinite="nonfinite"):
                self.index.add(as_vectors("embeddings", embeddings).clone())

    def save(self, filename: str | os.PathLike) -> None:
        """Write the index to a safetensors file: see ``PrototypeBank.save``."""
        if self.index is None:
            raise ValueError("there must be an index to save; got none: train or load one first")
        with named(path="filename"):
            self.index.save(filename)

    def load(self, filename: str | os.PathLike) -> None:
        """Take the index of a file that ``save`` wrote; its vectors stay memory-mapped.

        Raises:
            FileNotFoundError, ValueError: no such file, not one of an index, or of another metric.
        """
        with named(path="filename"):
            index = PrototypeBank.load(filename, self.device)
        if index.metric != self.metric:
            raise ValueError(
                f"filename must hold an index for metric {self.metric!r}; "
                f"{os.fspath(filename)!r} is for {index.metric!r}"
            )
        self.index = index

    def reset(self) -> None:
        """Let go of the index."""
        self.index = None


def _matches_wanted(k: object, references: int, own: bool) -> int:
    """k, and one more where a query's own match will be left out."""
    k, others = require_int("k", k, least=0), references - bool(own)
    if k > others:
        raise ValueError(
            f"k must be between 0 and {others}, the number of references"
            f"{' other than the query' if own else ''}; got {k}"
        )
    return k + bool(own)
