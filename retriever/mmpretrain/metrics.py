"""mmpretrain's evaluators of retrieval, from the ranked labels instead of all scores.

mmpretrain's own sort ``pred_score`` of every prototype, and would take k aligned scores for those
of the first k prototypes. These give the same numbers under the same names from ``pred_label``, so
that a retriever with ``dense_scores=False`` can be evaluated, and any other.
"""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.registry import METRICS as ROOT  # pyright: ignore[reportMissingImports]
from mmengine.registry import Registry  # pyright: ignore[reportMissingImports]
from mmpretrain.evaluation import metrics as theirs  # pyright: ignore[reportMissingImports]
from torch import Tensor

from ...kernels.contract.naming import named
from ..metrics.ranking import average_precision_at_k, hit_rate_at_k
from ..metrics.relevant import Relevance, relevance_to_targets
from ..similarity import sort_scores

METRICS = Registry("metric", parent=ROOT, scope="flashmatch")


@METRICS.register_module()
class RetrievalRecall(theirs.RetrievalRecall):
    """The percentage of queries with a relevant prototype among the first k labels.

    Arguments as of mmpretrain's. Samples need as many labels as the largest ``topk``.
    """

    def process(self, data_batch: Any, data_samples: Sequence[Any]) -> None:
        """Take in samples, or dicts of them, with ``gt_label`` (rows) or ``gt_score``, and with
        ``pred_label``, or else with the ``pred_score`` of every prototype.

        Raises:
            ValueError: neither of two, or fewer labels than ``topk``.
        """
        for sample in data_samples:
            relevant = _relevance(sample, max(self.topk)).relevant
            with named(k="topk"):
                self.results.append([100 * hit_rate_at_k(relevant, k) for k in self.topk])


@METRICS.register_module()
class RetrievalAveragePrecision(theirs.RetrievalAveragePrecision):
    """The mean over queries of the average precision of the first k labels, in percent.

    Arguments as of mmpretrain's. Samples need at least ``topk`` labels.
    """

    def process(self, data_batch: Any, data_samples: Sequence[Any]) -> None:
        """As of ``RetrievalRecall``; a query with nothing to find counts 0."""
        for sample in data_samples:
            relevant, total, _ = _relevance(sample, self.topk)
            with named(k="topk"):
                precision = average_precision_at_k(relevant, total, self.topk, mode=self.mode)
            self.results.append(100 * float(precision))


def _relevance(sample: Any, k: int) -> Relevance:
    """Of the k best, of a DataSample or a dict of one."""
    labels = _ranked(sample, k)[None].cpu()
    if (scores := sample.get("gt_score")) is not None:
        return relevance_to_targets(labels, torch.as_tensor(scores)[None].cpu())
    if (rows := sample.get("gt_label")) is not None:
        return relevance_to_targets(labels, [torch.as_tensor(rows).flatten().cpu()])
    raise ValueError("data_samples must have gt_label or gt_score; got one with neither")


def _ranked(sample: Any, k: int) -> Tensor:
    """Rows of the prototypes, best first: the sample's labels, or where these are fewer than k, the
    order of its scores, if these are more."""
    labels, scores = sample.get("pred_label"), sample.get("pred_score")
    if labels is None and scores is None:
        raise ValueError("data_samples must have pred_label or pred_score; got one with neither")
    count = 0 if labels is None else len(labels)
    if scores is not None and count < min(k, len(scores)):
        return sort_scores(torch.as_tensor(scores))[1]
    return torch.as_tensor(labels)
