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

from .ranking import average_precision_at_k, hit_rate_at_k
from .relevance import Relevance, relevance_to_targets

METRICS = Registry("metric", parent=ROOT, scope="flashmatch")


@METRICS.register_module()
class RetrievalRecall(theirs.RetrievalRecall):
    """The percentage of queries with a relevant prototype among the first k labels.

    Arguments as of mmpretrain's. Samples need as many labels as the largest ``topk``.
    """

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Take in samples with ``pred_label`` and with ``gt_label`` (rows) or ``gt_score``.

        Raises:
            ValueError: fewer labels than ``topk``.
        """
        for sample in data_samples:
            relevant = _relevance(sample).relevant
            self.results.append([100 * hit_rate_at_k(relevant, k) for k in self.topk])


@METRICS.register_module()
class RetrievalAveragePrecision(theirs.RetrievalAveragePrecision):
    """The mean over queries of the average precision of the first k labels, in percent.

    Arguments as of mmpretrain's. Samples need at least ``topk`` labels.
    """

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """As of ``RetrievalRecall``; a query with nothing to find counts 0."""
        for sample in data_samples:
            relevant, total, _ = _relevance(sample)
            precision = average_precision_at_k(relevant, total, self.topk, mode=self.mode)
            self.results.append(100 * float(precision))


def _relevance(sample: dict[str, Any]) -> Relevance:
    labels = sample["pred_label"][None].cpu()
    if "gt_score" in sample:
        return relevance_to_targets(labels, sample["gt_score"][None])
    return relevance_to_targets(labels, [torch.as_tensor(sample["gt_label"])])
