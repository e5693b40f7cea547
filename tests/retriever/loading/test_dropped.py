"""Samples that a collate_fn drops, or makes more of."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from loaded import IMAGES, ROWS, VECTORS, encode, prepared, without
from torch import Tensor
from torch.utils.data import DataLoader, Subset, default_collate

from flashmatch.retriever import DataSample, collate


def as_none(items: list[Any]) -> Any:
    return collate(items) or None


def as_empty_lists(items: list[Any]) -> Any:
    return collate(items) or {"inputs": [], "data_samples": []}


def as_list(items: list[Any]) -> Any:
    return [item for item in items if item is not None]


@pytest.mark.parametrize("function", [collate, as_none, as_empty_lists, as_list])
@pytest.mark.parametrize("batch_size", [1, 2, 4])
@pytest.mark.parametrize("shuffle", [False, True])
def test_samples_that_know_who_they_are_may_be_dropped(
    function: Callable[..., Any], batch_size: int, shuffle: bool
) -> None:
    loader = DataLoader(without(3, 2), batch_size, collate_fn=function, shuffle=shuffle)
    with pytest.warns(
        UserWarning, match=r"left out 2 of 10 samples, .*sample_idx \[2, 3\]$"
    ) as seen:
        retriever = prepared(loader)
    kept = [0, 1, 4, 5, 6, 7, 8, 9]
    assert len(seen) == 1
    assert retriever.prototype_ids.tolist() == kept
    torch.testing.assert_close(retriever.prototype_vecs, VECTORS[kept])


def test_many_dropped_samples_are_not_all_named() -> None:
    with pytest.warns(UserWarning, match=r"7 of 10 .*sample_idx \[0, 1, 2, 3, 4\] and more$"):
        prepared(DataLoader(without(*range(7)), 4, collate_fn=collate))


def test_ids_of_a_larger_whole_are_not_taken_for_gaps() -> None:
    part = Subset(without(7, id_of=lambda i: 100 - i), [5, 6, 7, 8])
    with pytest.warns(UserWarning, match="left out 1 of 4 samples") as seen:
        retriever = prepared(DataLoader(part, 2, collate_fn=collate))
    assert "missing" not in str(seen[0].message)
    assert retriever.prototype_ids.tolist() == [92, 94, 95]
    torch.testing.assert_close(retriever.prototype_vecs, VECTORS[[8, 6, 5]])


def test_nothing_left_is_an_error() -> None:
    loader = DataLoader(without(*range(ROWS)), 4, collate_fn=collate)
    with pytest.raises(ValueError, match=r"^prototype: .*gave no samples: .* dropped all of 10"):
        prepared(loader)


def readable(items: list[Any]) -> Any:
    return default_collate([image for _, image in items if image is not None])


def as_advised(items: list[Any]) -> dict[str, Any]:
    kept = [(i, image) for i, image in items if image is not None]
    samples = [DataSample(metainfo={"sample_idx": i}) for i, _ in kept]
    return {"inputs": [image for _, image in kept], "data_samples": samples}


def test_the_advice_for_dropped_samples_works() -> None:
    rows = [(i, None if i == 3 else IMAGES[i]) for i in range(ROWS)]
    with pytest.raises(ValueError, match=r"batch of 4 samples gave 3 inputs, .*metainfo=dict\(sa"):
        prepared(DataLoader(rows, 4, collate_fn=readable))  # pyright: ignore
    with pytest.warns(UserWarning, match=r"1 of 10 .*missing sample_idx \[3\]"):
        retriever = prepared(DataLoader(rows, 4, collate_fn=as_advised))  # pyright: ignore
    assert retriever.prototype_ids.tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9]


def test_drops_in_one_batch_are_not_made_good_in_another() -> None:
    def uneven(items: list[Tensor]) -> list[Tensor]:
        return items[1:] if len(items) == 4 else [*items, items[0], items[0]]

    with pytest.raises(ValueError, match="a batch of 4 samples gave 3 inputs"):
        prepared(DataLoader(IMAGES, 4, collate_fn=uneven))  # pyright: ignore


def test_several_inputs_of_a_sample_need_ids_of_their_own() -> None:
    def doubled(items: list[Any], step: int) -> dict[str, Any]:
        rows = [(2 * i + j * step, image + j) for i, image in items for j in range(2)]
        return {"inputs": [image for _, image in rows], "sample_idx": [i for i, _ in rows]}

    rows: Any = list(enumerate(IMAGES))
    retriever = prepared(DataLoader(rows, 4, collate_fn=lambda items: doubled(items, 1)))
    assert retriever.prototype_ids.tolist() == list(range(2 * ROWS))
    torch.testing.assert_close(retriever.prototype_vecs[1::2], encode(IMAGES + 1))
    with pytest.raises(ValueError, match="must have a sample_idx of its own; two have 0"):
        prepared(DataLoader(rows, 4, collate_fn=lambda items: doubled(items, 0)))
    with pytest.raises(ValueError, match=r"4 samples gave 8 inputs, .*if collate_fn makes more of"):
        prepared(DataLoader(IMAGES, 4, collate_fn=lambda x: [*x, *x]))  # pyright: ignore
