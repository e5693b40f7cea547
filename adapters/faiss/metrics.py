"""FAISS's metrics by number: two are searched by, the others are known by name."""

from torch import Tensor

from ...kernels.contract.arguments import require_int

METRIC_INNER_PRODUCT = 0
METRIC_L2 = 1
METRIC_L1 = 2
METRIC_Linf = 3
METRIC_Lp = 4
METRIC_Canberra = 20
METRIC_BrayCurtis = 21
METRIC_JensenShannon = 22
METRIC_Jaccard = 23
METRIC_NaNEuclidean = 24
METRIC_GOWER = 25

METRICS = {METRIC_INNER_PRODUCT: "dot", METRIC_L2: "l2"}
"""FAISS's numbers, and the metrics of ``flashmatch.topk`` that they stand for."""

_NAMES = {number: name for name, number in list(globals().items()) if name.startswith("METRIC_")}


def metric_name(metric: object) -> str:
    """What ``flashmatch.topk`` calls it."""
    number = require_int("metric", metric)
    if number not in METRICS:
        raise NotImplementedError(
            f"metric must be METRIC_INNER_PRODUCT (0) or METRIC_L2 (1); got {metric_title(number)}"
        )
    return METRICS[number]


def metric_title(metric: int) -> str:
    """Its name where FAISS has one, and its number."""
    return f"{_NAMES[metric]} ({metric})" if metric in _NAMES else f"metric {metric}"


def is_similarity_metric(metric: int) -> bool:
    """Whether larger is nearer."""
    return metric == METRIC_INNER_PRODUCT


def distances(scores: Tensor, metric: int) -> Tensor:
    """Scores with FAISS's sign."""
    return scores if metric == METRIC_INNER_PRODUCT else 0.0 - scores  # so that 0 is not -0
