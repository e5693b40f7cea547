"""range_search: all strictly within a threshold, however many, in the order of addition."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from allocations import peak_bytes

import flashmatch.adapters.faiss as ours
from flashmatch import kernels
from flashmatch.kernels.contract import reference

faiss = pytest.importorskip("faiss")

KINDS = {"IndexFlatIP": "dot", "IndexFlatL2": "l2"}
SHARES = (0.0, 1e-4, 0.01, 0.1, 0.5, 0.9, 1.0)


def filled(library, name: str, rows: np.ndarray):
    index = getattr(library, name)(rows.shape[1])
    index.add(rows)
    return index


def of_normals(queries: int, rows: int, channels: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    xq, xb = (rng.standard_normal((n, channels), dtype=np.float32) for n in (queries, rows))
    return xq, xb


def of_small_integers() -> tuple[np.ndarray, np.ndarray]:
    """Of which FAISS's sums are exact in float32, and many are equal."""
    rng = np.random.default_rng(1)
    xq, xb = (rng.integers(-9, 10, (n, 24)).astype(np.float32) for n in (40, 3000))
    return xq, xb


def thresholds(table: np.ndarray) -> Iterator[np.float32]:
    """Distances that occur, and their neighbours in float32, from the least to the largest."""
    for share in SHARES:
        known = np.float32(np.quantile(table, share, method="nearest"))
        yield from (np.nextafter(known, np.float32(-np.inf)), known)
        yield np.nextafter(known, np.float32(np.inf))


def expected(name: str, xq: np.ndarray, xb: np.ndarray, threshold: float) -> list[np.ndarray]:
    """The oracle's lims, distances and labels; it has scores of at least, FAISS those above."""
    sign = 1 if name == "IndexFlatIP" else -1
    above = np.nextafter(np.float32(sign * threshold), np.float32(np.inf))
    queries, rows = torch.from_numpy(xq), torch.from_numpy(xb)
    offsets, indices, scores = reference.within(queries, rows, float(above), KINDS[name])
    lims, labels = offsets.numpy(), indices.numpy()
    by_label = np.lexsort((labels, np.repeat(np.arange(len(xq)), np.diff(lims))))
    return [lims, sign * scores.numpy()[by_label], labels[by_label]]


@pytest.mark.parametrize("name", KINDS)
class TestShares:
    def test_as_faiss_at_distances_that_occur(self, name: str) -> None:
        xq, xb = of_small_integers()
        theirs, mine = (filled(library, name, xb) for library in (faiss, ours))
        table = xq @ xb.T if name == "IndexFlatIP" else np.square(xq[:, None] - xb).sum(2)
        counts = set()
        for threshold in thresholds(table):
            results = [index.range_search(xq, float(threshold)) for index in (theirs, mine)]
            for one, other in zip(*results, strict=True):
                np.testing.assert_array_equal(one, other, strict=True)
            counts.add(len(results[0][1]))
        assert {0, table.size} <= counts
        assert len(counts) > len(SHARES)

    def test_as_the_oracle_at_distances_that_occur(self, name: str) -> None:
        xq, xb = of_normals(16, 2500, 40)
        index = filled(ours, name, xb)
        table = index.search(xq, len(xb))[0]
        for threshold in thresholds(table):
            found = index.range_search(xq, float(threshold))
            for one, other in zip(found, expected(name, xq, xb, float(threshold)), strict=True):
                np.testing.assert_array_equal(one, other)

    @pytest.mark.parametrize("threshold", [np.nan, np.inf, -np.inf, 3e38, -3e38, 0.0, -0.0])
    def test_any_number_is_a_threshold(self, name: str, threshold: float) -> None:
        xq, xb = of_small_integers()
        xb[:7] = xq[:7]
        for rows in (xb, xb[:0]):
            theirs, mine = (
                filled(library, name, rows).range_search(xq, threshold) for library in (faiss, ours)
            )
            for one, other in zip(theirs, mine, strict=True):
                np.testing.assert_array_equal(one, other, strict=True)

    def test_a_threshold_that_is_no_float32_is_rounded_as_of_faiss(self, name: str) -> None:
        theirs, mine = (filled(library, name, np.full((3, 1), 0.1)) for library in (faiss, ours))
        for threshold in (0.1, np.float64(np.float32(0.1)), 0.1 + 1e-12, 0.01, 0.0100000001):
            asked = np.ones((1, 1)) if name == "IndexFlatIP" else np.zeros((1, 1))
            results = [index.range_search(asked, threshold) for index in (theirs, mine)]
            np.testing.assert_array_equal(results[0][0], results[1][0])


@pytest.mark.parametrize("name", KINDS)
def test_a_number_beyond_float32_is_infinite(name: str) -> None:
    """FAISS refuses to convert it."""
    xq, xb = of_small_integers()
    index = filled(ours, name, xb)
    for sign in (-1, 1):
        counts = [len(index.range_search(xq, sign * much)[1]) for much in (1e300, np.inf)]
        assert counts[0] == counts[1]


def test_no_queries() -> None:
    index = filled(ours, "IndexFlatL2", of_small_integers()[1])
    lims, values, labels = index.range_search(np.empty((0, 24)), 1.0)
    assert lims.tolist() == [0]
    assert (lims.dtype, values.dtype, labels.dtype) == (np.uint64, np.float32, np.int64)


def test_scores_beyond_float32_are_above_no_threshold() -> None:
    """A distance is inf then: FAISS's, too, is not below inf."""
    rows = np.array([[1e30, 0], [1, 0]], dtype=np.float32)
    for library in (faiss, ours):
        lims, _, labels = filled(library, "IndexFlatL2", rows).range_search(rows[1:], np.inf)
        assert (lims.tolist(), labels.tolist()) == ([0, 1], [1])


def test_least_numbers_where_a_processor_flushes_them() -> None:
    index = filled(ours, "IndexFlatIP", np.array([[0], [1], [-1]]))
    assert torch.set_flush_denormal(True)
    try:
        assert index.range_search(np.ones((1, 1)), 0.0)[2].tolist() == [1]
    finally:
        torch.set_flush_denormal(False)


@pytest.mark.parametrize("share", [0.1, 1.0])
@pytest.mark.parametrize("name", KINDS)
def test_memory_is_that_of_the_result(
    name: str, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = 16 * 2**20
    monkeypatch.setattr(kernels, "WORKSPACE_BYTES", workspace)
    xq, xb = of_normals(100, 20_000, 16)
    index = filled(ours, name, xb)
    table = index.search(xq[:10], len(xb))[0]
    threshold = float(np.quantile(table, share if name == "IndexFlatL2" else 1 - share))
    threshold = threshold if share < 1 else 1e9 if name == "IndexFlatL2" else -1e9
    pairs = len(index.range_search(xq, threshold)[1])
    assert pairs == pytest.approx(share * xq.shape[0] * len(xb), rel=0.2)
    assert peak_bytes(lambda: index.range_search(xq, threshold)) <= workspace + 6 * 12 * pairs
