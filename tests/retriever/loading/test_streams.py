"""Streams, in which nobody knows positions, and workers that repeat or share them."""

from typing import Any

import pytest
import torch
from loaded import (
    IMAGES,
    ROWS,
    Stream,
    assert_prepared,
    encode,
    image,
    named,
    pair,
    prepared,
    without,
)
from torch import Tensor
from torch.utils.data import DataLoader

from flashmatch.retriever import collate


class SizedStream(Stream):
    def __len__(self) -> int:
        return self.rows


def from_workers(stream: Stream, **options: Any) -> DataLoader:
    return DataLoader(stream, **{"batch_size": 2, "num_workers": 2, **options})


@pytest.mark.parametrize("kind", [Stream, SizedStream])
@pytest.mark.parametrize("order", ["", "shuffled"])
@pytest.mark.parametrize("item", [image, pair])
def test_workers_that_repeat_a_stream_are_noticed(kind: Any, order: str, item: Any) -> None:
    match = r"^prototype: .*2 workers gave .*torch.utils.data.get_worker_info\(\), or use num_work"
    for options in ({}, {"batch_size": None}, {"persistent_workers": True}):
        with pytest.raises(ValueError, match=match):
            prepared(from_workers(kind(item, order=order), **options))


@pytest.mark.parametrize("kind", [Stream, SizedStream])
def test_workers_that_share_a_stream_raise_no_alarm(kind: Any) -> None:
    turns = [0, 2, 1, 3, 4, 6, 5, 7, 8, 9]
    assert_prepared(from_workers(kind(image, shared=True)), range(ROWS), turns)
    batches = kind(lambda i: IMAGES[2 * i : 2 * i + 2], shared=True, rows=5)
    assert len(prepared(from_workers(batches, batch_size=None)).prototype_vecs) == ROWS
    single = from_workers(kind(image), num_workers=1)
    assert_prepared(single, range(ROWS))
    assert_prepared(from_workers(kind(image), num_workers=0), range(ROWS))


def test_ids_make_repetitions_by_workers_harmless() -> None:
    assert_prepared(from_workers(Stream(named), collate_fn=collate), range(ROWS))


def black(index: int) -> Tensor:
    return torch.zeros(3, 4, 4)


def test_images_that_are_all_alike_tell_nothing() -> None:
    with pytest.warns(UserWarning, match=r"2 workers gave the same 5 samples .* these are too ma"):
        retriever = prepared(from_workers(Stream(black, shared=True)), lambda x: encode(x) + 1)
    assert len(retriever.prototype_vecs) == ROWS
    sized = prepared(from_workers(SizedStream(black, shared=True)), lambda x: encode(x) + 1)
    assert len(sized.prototype_vecs) == ROWS


def test_shares_of_few_images_of_which_one_has_others_raise_no_alarm() -> None:
    stream = Stream(lambda i: IMAGES[[0, 0, 1, 0][i]], shared=True, rows=4)
    retriever = prepared(from_workers(stream, batch_size=1))
    assert torch.equal(retriever.prototype_vecs, encode(IMAGES[[0, 0, 1, 0]]))


def test_a_column_of_no_ids_is_none() -> None:
    items = [{"inputs": image(i), "sample_idx": None} for i in range(3)]
    assert_prepared(DataLoader(items, 2, collate_fn=collate), range(3))


def test_a_length_says_that_samples_are_meant_to_be_there_twice() -> None:
    twice = Stream(lambda i: IMAGES[i // 2], shared=True)
    with pytest.raises(ValueError, match="give it a __len__ that says how many there are in all"):
        prepared(from_workers(twice))
    sized = SizedStream(twice.item, shared=True)
    turns = [0, 1, 0, 1, 2, 3, 2, 3, 4, 4]
    assert_prepared(from_workers(sized), range(ROWS), turns)


def test_the_last_batch_of_a_stream_is_not_lost() -> None:
    with pytest.raises(ValueError, match="drop_last=True would leave out 2 samples"):
        prepared(DataLoader(Stream(image), 4, drop_last=True))
    assert_prepared(DataLoader(Stream(image), 5, drop_last=True), range(ROWS))


def test_streams_may_drop_what_has_ids() -> None:
    rows = without(3)
    for kind, missing in ((SizedStream, r"; missing sample_idx \[3\]"), (Stream, "")):
        loader = DataLoader(kind(rows.item), 4, collate_fn=collate)
        with pytest.warns(UserWarning, match=f"left out 1 of 10 samples.*{missing}$"):
            retriever = prepared(loader)
        assert retriever.prototype_ids.tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    unnamed = Stream(lambda i: None if i == 3 else IMAGES[i])
    with pytest.raises(ValueError, match="a batch of 4 samples gave 3 inputs"):
        prepared(DataLoader(unnamed, 4, collate_fn=collate))


def test_streams_nobody_batches() -> None:
    for item in (image, pair, named):
        assert_prepared(DataLoader(Stream(item), batch_size=None), range(ROWS))
    batches = Stream(lambda i: IMAGES[2 * i : 2 * i + 2], rows=5)
    assert_prepared(DataLoader(batches, batch_size=None), range(ROWS))


def test_samples_that_share_an_id_in_a_stream() -> None:
    shared = Stream(lambda i: named(i, lambda i: i % 9))
    with pytest.raises(ValueError, match=r"a sample_idx of its own; two have 0$"):
        prepared(DataLoader(shared, 4, collate_fn=collate))
