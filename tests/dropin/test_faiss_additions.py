"""Additions and removals between searches."""

import numpy as np
import pytest
import torch
from faiss_unpatched import faiss_unpatched  # noqa: F401

import flashmatch.adapters.faiss as ours

faiss = pytest.importorskip("faiss")

RNG = np.random.default_rng(0)
QUERIES = RNG.integers(-200, 200, (8, 4)).astype(np.float32)  # exact in FAISS's float32 sums
ROWS = RNG.integers(-500, 500, (48, 4)).astype(np.float32)


def test_additions_between_searches() -> None:
    """Of large pieces and small ones, before and after the first search."""
    rows = RNG.integers(-500, 500, (9001, 4)).astype(np.float32)

    found = []
    for library in (faiss, ours):
        index = library.IndexFlatL2(4)
        for part in np.split(rows, [3, 10, 4500, 4501]):
            index.add(part)
        first = index.search(QUERIES, 3)[0]
        for part in np.split(rows + 7, [5000, 5001]):
            index.add(part)
        found.append([first, index.search(QUERIES, 3)[0], index.reconstruct_n(8990, 9000)])
    for theirs, mine in zip(*found, strict=True):
        np.testing.assert_array_equal(mine, theirs, strict=True)


def test_inference_mode_and_out_of_it() -> None:
    index = ours.IndexFlatL2(4)
    for inference in (True, False, True, False):
        with torch.inference_mode(inference):
            index.add(torch.from_numpy(ROWS))
            index.search(torch.from_numpy(QUERIES), 2)
            index.remove_ids(np.arange(40))
    assert index.ntotal == 4 * 8
    np.testing.assert_array_equal(index.reconstruct_n(24), ROWS[40:])
