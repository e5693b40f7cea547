"""Ids: of any kind, each once, or refused."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from loaded import IMAGES, ROWS, Keyed, assert_prepared, named, prepared, without
from torch.utils.data import DataLoader, default_collate

from flashmatch.retriever import DataSample, collate


@pytest.mark.parametrize(
    "id_of",
    [int, np.int64, np.uint8, np.array, torch.tensor, lambda i: torch.tensor(i, dtype=torch.uint8)],
)
@pytest.mark.parametrize(
    "sample",
    [
        lambda index: DataSample(metainfo={"sample_idx": index}),
        lambda index: DataSample(sample_idx=index),
        lambda index: SimpleNamespace(sample_idx=index),
        lambda index: {"sample_idx": index},
    ],
)
def test_ids_of_any_kind_of_integer_and_sample(id_of: Any, sample: Any) -> None:
    dataset = Keyed(lambda i: (IMAGES[i], sample(id_of(50 - i))))
    for function in (collate, list):
        loader = DataLoader(dataset, 4, collate_fn=function, shuffle=True)
        assert_prepared(loader, range(50, 40, -1), range(ROWS))


def test_ids_in_columns() -> None:
    for item in (
        lambda i: (IMAGES[i], {"sample_idx": 50 - i}),
        lambda i: {"image": IMAGES[i], "sample_idx": 50 - i},
        lambda i: {"inputs": IMAGES[i], "data_samples": {"sample_idx": 50 - i, "name": "x"}},
        lambda i: {"inputs": IMAGES[i], "data_samples": i, "sample_idx": 50 - i},
    ):
        for function in (default_collate, collate):
            loader = DataLoader(Keyed(item), 4, collate_fn=function, shuffle=True)
            assert_prepared(loader, range(50, 40, -1), range(ROWS))


@pytest.mark.parametrize(
    ("index", "error"),
    [
        *((index, TypeError) for index in (1.0, True, "3", np.bool_(True), [1])),
        *((index, TypeError) for index in (torch.tensor(True), torch.tensor(2.0))),
        *((index, ValueError) for index in (-1, 2**63, np.uint64(2**63 + 5))),
    ],
    ids=repr,
)
def test_other_ids_are_refused(index: Any, error: type[Exception]) -> None:
    match = r"^prototype: sample_idx must be an integer from 0 to 2\^63 - 1; got "
    with pytest.raises(error, match=match):
        prepared(DataLoader(Keyed(lambda i: named(i, lambda _: index)), 4, collate_fn=collate))
    item = {"inputs": IMAGES[:1], "sample_idx": [index]}
    with pytest.raises(error, match=match):
        prepared(DataLoader(Keyed(lambda i: item, 1), batch_size=None, collate_fn=lambda x: x))


def test_the_largest_id_is_kept() -> None:
    loader = DataLoader(Keyed(lambda i: named(i, lambda i: 2**63 - 1 - i)), 4, collate_fn=collate)
    assert_prepared(loader, [2**63 - 1 - i for i in range(ROWS)], range(ROWS))


def test_one_id_for_each_input() -> None:
    batch = {"inputs": IMAGES[:2], "sample_idx": [1, 2, 3]}
    with pytest.raises(ValueError, match="a batch of 2 inputs has 3 sample_idxs"):
        prepared(DataLoader(Keyed(lambda i: batch, 1), batch_size=None, collate_fn=lambda x: x))


def test_shared_ids_are_refused_and_repeated_samples_are_not() -> None:
    shared = Keyed(lambda i: named(i, lambda i: i % 9))
    with pytest.raises(ValueError, match="two have 0, at the positions 0 and 9"):
        prepared(DataLoader(shared, 4, collate_fn=collate))
    padded: Any = [*range(ROWS), 0, 9]
    assert_prepared(DataLoader(Keyed(), 4, collate_fn=collate, sampler=padded), range(ROWS))
    dropping = Keyed(lambda i: None if i == 1 else named(i, lambda i: i % 9))
    with pytest.raises(ValueError, match=r"a sample_idx of its own; two have 0$"):
        prepared(DataLoader(dropping, 4, collate_fn=collate))
    with pytest.warns(UserWarning, match=r"1 of 10 .*sample_idx \[1\]"):
        prepared(DataLoader(without(1), 4, collate_fn=collate, sampler=padded))
