"""Results of several searches made one, and the best columns of tables."""

import numpy as np

from ...kernels.contract.arguments import require_int
from .arrays import WORST


class ResultHeap:
    """The ``k`` best of results that come in pieces: ``add_result``, ..., ``finalize``, then D, I.

    ``keep_max`` for scalar products. Of equal distances those added first come first. NaN and what
    is no better than the largest float32 never enter; ranks that nothing took have label -1.
    """

    def __init__(self, nq: int, k: int, keep_max: bool = False) -> None:
        self.nq, self.k, self.keep_max = require_int("nq", nq, 0), require_int("k", k, 0), keep_max
        shape = self.nq, self.k
        self.D = np.full(shape, -WORST if keep_max else WORST, dtype=np.float32)
        self.I = np.full(shape, -1, dtype=np.int64)

    def add_result(self, D: object, I: object) -> None:  # noqa: E741
        """Distances and labels (nq, any number), in any order."""
        D, I = _table("D", D, np.float32), _table("I", I, np.int64)  # noqa: E741
        if D.shape != I.shape or len(D) != self.nq:
            raise ValueError(
                f"D and I must have one shape, ({self.nq}, any); got {D.shape} and {I.shape}"
            )
        self._take(slice(None), D, I)

    def add_result_subset(self, subset: object, D: object, I: object) -> None:  # noqa: E741
        """As ``add_result``, of the queries ``subset`` (n,); I may be (any,), the same for all."""
        rows, D = np.asarray(subset, dtype=np.int64), _table("D", D, np.float32)
        I = np.broadcast_to(np.asarray(I, dtype=np.int64), D.shape)  # noqa: E741
        if rows.shape != D.shape[:1]:
            raise ValueError(
                f"subset must be one number for each row of D; got {rows.shape} for {D.shape}"
            )
        self._take(rows, D, I)

    def finalize(self) -> None:
        """Nothing: D and I are in order at any time."""

    def _take(self, rows: slice | np.ndarray, D: np.ndarray, I: np.ndarray) -> None:  # noqa: E741
        values = np.concatenate([self.D[rows], D], axis=1)
        labels = np.concatenate([self.I[rows], I], axis=1)
        self.D[rows], self.I[rows] = _best(values, labels, self.k, self.keep_max)


def merge_knn_results(
    Dall: np.ndarray, Iall: np.ndarray, keep_max: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Results (shards, n, k) of the shards of a set, whose labels differ, as those of the set.

    ``keep_max`` for scalar products. Of equal distances those of the first shard come first.
    Labels -1 are passed over.
    """
    D, I = np.asarray(Dall), np.asarray(Iall)  # noqa: E741
    if D.ndim != 3 or D.shape != I.shape:
        raise ValueError(
            f"Dall and Iall must have one shape, (shards, n, k); got {D.shape} and {I.shape}"
        )
    values, labels = (np.concatenate(list(x), axis=1) if len(x) else x[0] for x in (D, I))
    values, labels = _best(values, labels, D.shape[2], keep_max)
    return values.astype(D.dtype, copy=False), labels.astype(I.dtype, copy=False)


def kmin(array: object, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` smallest numbers of each row of ``array`` (n, m), ascending, and their columns."""
    return _of_rows(array, k, keep_max=False)


def kmax(array: object, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` largest numbers of each row of ``array`` (n, m), descending, and their columns."""
    return _of_rows(array, k, keep_max=True)


def _of_rows(array: object, k: int, keep_max: bool) -> tuple[np.ndarray, np.ndarray]:
    table = _table("array", array, np.float32)
    heap = ResultHeap(len(table), k, keep_max)
    heap.add_result(table, np.broadcast_to(np.arange(table.shape[1]), table.shape))
    return heap.D, heap.I


def _best(
    values: np.ndarray, labels: np.ndarray, k: int, keep_max: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The k best columns of each row, those first that come first."""
    worst = -WORST if keep_max else WORST
    with np.errstate(invalid="ignore"):
        enters = (values > worst if keep_max else values < worst) & (labels >= 0)
    values, labels = np.where(enters, values, worst), np.where(enters, labels, -1)
    order = np.argsort(-values if keep_max else values, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(values, order, 1), np.take_along_axis(labels, order, 1)


def _table(name: str, value: object, dtype: type) -> np.ndarray:
    table = np.asarray(value, dtype=dtype)
    if table.ndim != 2:
        raise ValueError(f"{name} must have two dimensions; got shape {table.shape}")
    return table
