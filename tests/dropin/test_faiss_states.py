"""Additions between searches, threads that search at once, changes that are interrupted."""

import copy
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from programs import in_threads
from stopped import stopped_at

import flashmatch.adapters.faiss as ours

ROWS = np.random.default_rng(0).standard_normal((300, 8)).astype(np.float32)
QUERIES = ROWS[::50] + 0.1


def made(kind: str) -> ours.IndexFlat | ours.IndexIDMap2:
    index = ours.IndexFlatL2(8)
    if kind == "flat":
        index.add(ROWS)
        return index
    mapped = ours.IndexIDMap2(index)
    mapped.add_with_ids(ROWS, np.arange(300) * 7)
    return mapped


def seen(index: ours.IndexFlat | ours.IndexIDMap2) -> tuple:
    found = index.search(QUERIES, 4)
    labels = index.id_map if isinstance(index, ours.IndexIDMap2) else np.arange(index.ntotal)
    vectors = index.reconstruct_batch(labels)
    return index.ntotal, *(x.tolist() for x in (*found, labels, vectors))


def add(index: ours.IndexFlat | ours.IndexIDMap2) -> None:
    if isinstance(index, ours.IndexIDMap2):
        index.add_with_ids(ROWS[:40] + 1, np.arange(9000, 9040))
    else:
        index.add(ROWS[:40] + 1)


def merge(index: ours.IndexFlat | ours.IndexIDMap2) -> None:
    other = made("flat" if isinstance(index, ours.IndexFlat) else "mapped")
    index.merge_from(other)


CHANGES = {
    "add": add,
    "merge": merge,
    "remove": lambda index: index.remove_ids(np.arange(0, 900, 21)),
    "remove all": lambda index: index.remove_ids(np.arange(5000)),
    "reset": lambda index: index.reset(),
}


@pytest.fixture
def _often_switched() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("_often_switched")
@pytest.mark.parametrize("kind", ["flat", "mapped"])
def test_threads_that_search_first(kind: str) -> None:
    """What waits to be prepared is prepared once."""
    for _ in range(20):
        index, expected = made(kind), seen(made(kind))
        for found in in_threads(lambda _, index=index: index.search(QUERIES, 4), range(8)):
            assert [x.tolist() for x in found] == list(expected[1:3])
        assert index.ntotal == 300
        assert seen(index) == expected


@pytest.mark.parametrize("kind", ["flat", "mapped"])
@pytest.mark.parametrize("is_prepared", [True, False])
@pytest.mark.parametrize("name", CHANGES)
def test_stopped_at_any_line(kind: str, name: str, is_prepared: bool) -> None:
    """The index is what it was or what it was to become, and goes on from there."""
    line, outcomes = 1, set()
    while True:
        index = made(kind)
        if is_prepared:
            index.search(QUERIES, 1)
        before, after = seen(made(kind)), made(kind)
        CHANGES[name](after)
        was_stopped = stopped_at(line, lambda index=index: CHANGES[name](index))
        found = seen(index)
        assert found in (before, seen(after))
        outcomes.add(found == before)
        add(index)
        assert len(seen(index)[3]) == found[0] + 40
        if not was_stopped:
            break
        line += 1 + line // 12
    assert outcomes == {True, False}


@pytest.mark.parametrize("kind", ["flat", "mapped"])
def test_a_search_that_is_stopped_while_it_prepares(kind: str) -> None:
    line, expected = 1, seen(made(kind))
    while True:
        index = made(kind)
        was_stopped = stopped_at(line, lambda index=index: index.search(QUERIES, 2))
        assert seen(index) == expected
        if not was_stopped:
            break
        line += 1 + line // 12
    assert line > 50


def test_a_shallow_copy_grows_alone() -> None:
    index = made("flat")
    for twin in (copy.copy(index), copy.deepcopy(index)):
        before = seen(index)
        twin.add(ROWS[:5])
        twin.search(QUERIES, 1)
        twin.remove_ids(np.arange(3))
        assert seen(index) == before
        assert twin.ntotal == 302


def test_vectors_changed_behind_the_ids_after_a_change() -> None:
    """As many as before it: the old ids are not taken for theirs."""
    index = made("mapped")
    add(index)
    index.index.remove_ids(np.arange(40))
    with pytest.raises(RuntimeError, match="300 vectors for 340 ids"):
        index.search(torch.from_numpy(QUERIES), 1)


def test_additions_between_searches() -> None:
    """Of large pieces and small ones, before and after the first search."""
    faiss = pytest.importorskip("faiss")
    random = np.random.default_rng(0)
    queries = random.integers(-200, 200, (8, 4)).astype(np.float32)  # exact in FAISS's sums
    rows = random.integers(-500, 500, (9001, 4)).astype(np.float32)
    found = []
    for library in (faiss, ours):
        index = library.IndexFlatL2(4)
        for part in np.split(rows, [3, 10, 4500, 4501]):
            index.add(part)
        first = index.search(queries, 3)[0]
        for part in np.split(rows + 7, [5000, 5001]):
            index.add(part)
        found.append([first, index.search(queries, 3)[0], index.reconstruct_n(8990, 9000)])
    for theirs, mine in zip(*found, strict=True):
        np.testing.assert_array_equal(mine, theirs, strict=True)


def test_inference_mode_and_out_of_it() -> None:
    index = ours.IndexFlatL2(8)
    for inference in (True, False, True, False):
        with torch.inference_mode(inference):
            index.add(torch.from_numpy(ROWS[:48]))
            index.search(torch.from_numpy(QUERIES), 2)
            index.remove_ids(np.arange(40))
    assert index.ntotal == 4 * 8
    np.testing.assert_array_equal(index.reconstruct_n(24), ROWS[40:48])
