"""Which samples a loader asks for, and who left some out."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from loaded import IMAGES, ROWS, Keyed, assert_prepared, named, prepared
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from flashmatch.retriever import collate


class Names(BatchSampler):
    def __init__(self, batches: list[list[Any]]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[list[Any]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def test_who_left_samples_out() -> None:
    again = RandomSampler(range(ROWS), replacement=True, num_samples=4)
    for dataset, function in ((IMAGES, list), (Keyed(), collate)):

        def loader(dataset: Any = dataset, function: Any = function, **options: Any) -> DataLoader:
            return DataLoader(dataset, collate_fn=function, **options)

        with pytest.raises(ValueError, match=r"8 distinct .*: drop_last=True .*drop_last=False"):
            prepared(loader(batch_size=4, drop_last=True))
        with pytest.raises(ValueError, match=r"2 distinct .* its sampler, a list, .*\.Subset"):
            prepared(loader(batch_size=2, drop_last=True, sampler=[1, 2]))
        with pytest.raises(ValueError, match=r"3 distinct .* its batch_sampler, a Names, leaves"):
            prepared(loader(batch_sampler=Names([[0], [1, 2]])))
        with pytest.raises(ValueError, match=r"its sampler, a RandomSampler, leaves out the other"):
            prepared(loader(batch_size=2, sampler=again))


def test_loaders_that_iterate_in_a_way_of_their_own() -> None:
    class Own(DataLoader):
        def __iter__(self) -> Any:
            return iter(list(super().__iter__())[:2])

    with pytest.raises(ValueError, match=r"8 distinct .* the __iter__ of Own leaves out the other"):
        prepared(Own(IMAGES, 4))  # pyright: ignore
    with pytest.raises(ValueError, match=r"drop_last=True leaves out the others"):
        prepared(Own(IMAGES, 4, drop_last=True))  # pyright: ignore
    with pytest.raises(ValueError, match="order of this DataLoader says nothing"):
        prepared(Own(IMAGES, 5, shuffle=True))  # pyright: ignore
    assert_prepared(Own(IMAGES, 5), range(ROWS))  # pyright: ignore
    with pytest.warns(UserWarning, match=r"2 of 10 samples, .*missing sample_idx \[8, 9\]"):
        prepared(Own(Keyed(), 4, collate_fn=collate))


def test_positions_of_any_kind() -> None:
    order = torch.randperm(ROWS)
    for positions in (order, order.numpy(), [int(i) - ROWS for i in order]):
        assert_prepared(DataLoader(IMAGES, 3, sampler=positions), range(ROWS))  # pyright: ignore
    assert_prepared(DataLoader(IMAGES, 3, sampler=[*range(ROWS), -1, 0]), range(ROWS))  # pyright: ignore
    batches = Names([order.tolist()[:7], order.tolist()[7:]])
    assert_prepared(DataLoader(IMAGES, batch_sampler=batches), range(ROWS))  # pyright: ignore


def test_keys_that_are_no_positions_need_ids() -> None:
    keys = Names([["4", "2"], ["0"], ["1", "3"]])

    def loader(item: Callable[[int], Any]) -> DataLoader:
        dataset = Keyed(lambda key: item(int(key)), rows=5)
        return DataLoader(dataset, batch_sampler=keys, collate_fn=collate)

    assert_prepared(loader(named), range(5))
    with pytest.raises(ValueError, match="give every sample a sample_idx"):
        prepared(loader(lambda i: IMAGES[i]))


@pytest.mark.parametrize("shuffle", [False, True])
def test_items_that_nobody_batches(shuffle: bool) -> None:
    for item in (
        lambda i: IMAGES[i],
        lambda i: (IMAGES[i], i),
        lambda i: {"image": IMAGES[i]},
        lambda i: [IMAGES[i]],
        named,
    ):
        assert_prepared(DataLoader(Keyed(item), batch_size=None, shuffle=shuffle), range(ROWS))


def test_datasets_that_give_batches() -> None:
    batches = Keyed(lambda i: IMAGES[2 * i : 2 * i + 2], rows=5)
    assert_prepared(DataLoader(batches, batch_size=None), range(ROWS))
    with pytest.raises(ValueError, match="order of this DataLoader says nothing"):
        prepared(DataLoader(batches, batch_size=None, shuffle=True))
