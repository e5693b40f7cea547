"""Means of metrics over queries that come in batches, and in several processes."""

from collections.abc import Sequence
from math import nan
from typing import Any

import torch

from ...kernels.arrays.taken import AnyArray, as_tensor
from ...kernels.contract.arguments import require_choice, require_int
from . import ranking
from .knn import Weights, class_ranks, knn_predict
from .labels import Labels
from .relevant import Relevance
from .sums import MetricSums

EMPTY = ("neg", "pos", "skip", "error")
R_PRECISIONS = ("off", "exact", "truncate")


class RetrievalMetrics(MetricSums):
    """Hit rate, recall, precision, mAP and MRR at each k, and R-precision, over batches.

        metrics = RetrievalMetrics(ks=(1, 10))
        for queries, labels in batches:
            _, indices = bank.topk(queries, 10)
            metrics.update(relevance(indices, labels, gallery_labels))
        metrics.compute()  # {"hit_rate@1": ..., "hit_rate@10": ..., "recall@1": ..., ...}

    Args:
        ks: cutoffs; a batch must have as many ranked matches as the largest.
        ap_mode, ap_divisor: ``mode`` and ``divisor`` of ``average_precision_at_k``.
        adaptive_k: precision@k is of what was retrieved, where that is less than k.
        r_precision: ``"off"`` leaves it out; ``"exact"`` refuses, in ``compute``, if a query had
            more relevant prototypes than ranked matches; ``"truncate"`` as of ``r_precision``.
        empty: queries with no relevant prototype count 0 for ``"neg"``, 1 for ``"pos"``, not at all
            for ``"skip"``; ``"error"`` refuses them, in ``compute``.

    Memory is a few sums, whatever the number of queries. ``update`` waits for no device.
    """

    def __init__(
        self,
        ks: Sequence[int] = (1, 5, 10),
        *,
        ap_mode: str = "IR",
        ap_divisor: str = "relevant",
        adaptive_k: bool = False,
        r_precision: str = "off",
        empty: str = "neg",
    ) -> None:
        if not isinstance(ks, Sequence) or len(ks) == 0:
            raise TypeError(f"ks must be a sequence of at least one int; got {ks!r}")
        self.ks = tuple(sorted({require_int("ks", k, least=1) for k in ks}))
        require_choice("ap_mode", ap_mode, ranking.AP_MODES)
        require_choice("ap_divisor", ap_divisor, ranking.AP_DIVISORS)
        require_choice("r_precision", r_precision, R_PRECISIONS)
        require_choice("empty", empty, EMPTY)
        self.ap_mode, self.ap_divisor, self.adaptive_k = ap_mode, ap_divisor, adaptive_k
        self.r_precision, self.empty = r_precision, empty
        settings = (self.ks, ap_mode, ap_divisor, adaptive_k, r_precision, empty)
        kinds = ("hit_rate", "recall", "precision", "mAP", "MRR")
        self._reported = [f"{kind}@{k}" for kind in kinds for k in self.ks]
        self._reported += ["R_precision"] * (r_precision != "off")
        super().__init__([*self._reported, "queries", "empty", "short"], settings)

    def update(self, batch: Relevance) -> None:
        """Take in a batch of queries, as ``relevance`` describes it.

        Raises:
            TypeError, ValueError: it is not of bool (Q, >= max(ks)) and two (Q,).
        """
        relevant, total, retrieved = (
            as_tensor(name, value) for name, value in zip(Relevance._fields, batch, strict=True)
        )
        there = retrieved if self.adaptive_k else None
        values = {}
        for k in self.ks:
            values[f"hit_rate@{k}"] = ranking.hit_rate_at_k(relevant, k)
            values[f"recall@{k}"] = ranking.recall_at_k(relevant, total, k)
            values[f"precision@{k}"] = ranking.precision_at_k(relevant, k, there)
            values[f"mAP@{k}"] = ranking.average_precision_at_k(
                relevant, total, k, mode=self.ap_mode, divisor=self.ap_divisor
            )
            values[f"MRR@{k}"] = ranking.reciprocal_rank(relevant, k)
        if self.r_precision != "off":
            values["R_precision"] = ranking.r_precision(relevant, total, truncate=True)
        values["queries"] = torch.ones_like(total)
        values["empty"] = total == 0
        values["short"] = total > relevant.shape[1]
        self._add(values)

    def compute(self, *, sync: bool = True, group: Any = None) -> dict[str, float]:
        """The means over all queries so far, in 0..1, and NaN where there were none.

        Args:
            sync: where torch.distributed is initialised, over the queries of all processes, all of
                which must call this. What each has seen itself stays as it is.
            group: the processes; None = all.

        Raises:
            ValueError: queries with nothing to find, for ``empty="error"``; queries with too few
                ranked matches, for ``r_precision="exact"``.
        """
        sums = self._totals(sync, group)
        if self.empty == "error" and sums["empty"]:
            raise ValueError(
                f'queries must have a relevant prototype (or pass another empty than "error"); '
                f"got {sums['empty']:.0f} that have none"
            )
        if self.r_precision == "exact" and sums["short"]:
            raise ValueError(ranking.TOO_FEW_RANKS.format(f"{sums['short']:.0f}"))
        extra = sums["empty"] if self.empty == "pos" else 0
        count = sums["queries"] - (sums["empty"] if self.empty == "skip" else 0)
        return {name: (sums[name] + extra) / count if count else nan for name in self._reported}


class KnnAccuracy(MetricSums):
    """The accuracy of k-nearest-neighbour classification, over batches.

    Args:
        num_classes: C.
        topk: how many of the best classes count.
        temperature, weights: as of ``knn_predict``.
    """

    def __init__(
        self,
        num_classes: int,
        topk: Sequence[int] = (1, 5),
        *,
        temperature: float = 0.07,
        weights: Weights = "softmax",
    ) -> None:
        self.num_classes = require_int("num_classes", num_classes, least=1)
        self.topk = tuple(require_int("topk", k, least=1) for k in topk)
        self.temperature, self.weights = temperature, weights
        self._reported = [f"top{k}" for k in self.topk]
        settings = (self.num_classes, self.topk, temperature, weights)
        super().__init__([*self._reported, "queries"], settings)

    def update(
        self,
        scores: AnyArray,
        indices: AnyArray,
        query_labels: Labels,
        prototype_labels: Labels,
        *,
        exclude_self: Labels | None = None,
    ) -> None:
        """Take in a batch of queries: arguments and errors as of ``knn_predict``."""
        class_scores = knn_predict(
            as_tensor("scores", scores),
            indices,
            prototype_labels,
            self.num_classes,
            temperature=self.temperature,
            weights=self.weights,
            exclude_self=exclude_self,
        )
        ranks = class_ranks(class_scores, query_labels)
        values = {f"top{k}": ranks < k for k in self.topk}
        self._add({**values, "queries": torch.ones_like(ranks)})

    def compute(self, *, sync: bool = True, group: Any = None) -> dict[str, float]:
        """``{"top1": ..., "top5": ...}`` in 0..1, NaN if there were no queries; ``sync`` and
        ``group`` as of ``RetrievalMetrics.compute``."""
        sums = self._totals(sync, group)
        count = sums["queries"]
        return {name: sums[name] / count if count else nan for name in self._reported}
