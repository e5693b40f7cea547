"""Exact neighbours of queries among vectors that come in blocks, and need not fit in memory."""

from collections.abc import Iterable, Iterator

import numpy as np

from flashmatch.adapters.faiss.flat import IndexFlat
from flashmatch.adapters.faiss.merging import ResultHeap
from flashmatch.adapters.faiss.metrics import METRIC_L2, is_similarity_metric
from flashmatch.adapters.faiss.search import knn
from flashmatch.adapters.faiss.tensors import matrix
from flashmatch.kernels.contract.arguments import require_int

__all__ = ["exponential_query_iterator", "knn", "knn_ground_truth", "range_ground_truth"]


def knn_ground_truth(
    xq: object,
    db_iterator: Iterable[np.ndarray],
    k: int,
    metric_type: int = METRIC_L2,
    shard: bool = False,
    ngpu: int = -1,
) -> tuple[np.ndarray, np.ndarray]:
    """Distances (n, k) and row numbers (n, k), counted through the blocks (m, d).

    ``shard`` and ``ngpu`` have no effect: blocks are searched where the queries lie.
    """
    queries, k = matrix("xq", xq).numpy(), require_int("k", k, 0)
    heap, start = ResultHeap(len(queries), k, is_similarity_metric(metric_type)), 0
    for block in db_iterator:
        D, I = knn(queries, block, k, metric_type)  # noqa: E741
        heap.add_result(D, np.where(I < 0, I, I + start))
        start += len(block)
    return heap.D, heap.I


def range_ground_truth(
    xq: object,
    db_iterator: Iterable[np.ndarray],
    threshold: float,
    metric_type: int = METRIC_L2,
    shard: bool = False,
    ngpu: int = -1,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As ``Index.range_search`` of all blocks (m, d): lims, D and I."""
    queries, start = matrix("xq", xq).numpy(), 0
    rows, values, labels = [np.empty(0, np.int64)], [np.empty(0, np.float32)], []
    for block in db_iterator:
        index = IndexFlat(queries.shape[1], metric_type)
        index.add(block)
        lims, D, I = index.range_search(queries, threshold)  # noqa: E741
        rows.append(np.repeat(np.arange(len(queries)), np.diff(lims.astype(np.int64))))
        values.append(D)
        labels.append(I + start)
        start += len(block)
    row = np.concatenate(rows)
    order = np.argsort(row, kind="stable")
    lims = np.searchsorted(row[order], np.arange(len(queries) + 1)).astype(np.uint64)
    return lims, np.concatenate(values)[order], np.concatenate([rows[0], *labels])[order]


def exponential_query_iterator(
    xq: np.ndarray, start_bs: int = 32, max_bs: int = 20000
) -> Iterator[np.ndarray]:
    """``xq`` (n, d) in blocks that double, from ``start_bs`` rows up to ``max_bs`` or twice it."""
    start, size = 0, start_bs
    while start < len(xq):
        yield xq[start : start + size]
        start, size = start + size, size if size >= max_bs else 2 * size
