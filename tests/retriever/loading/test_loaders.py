"""Rows and ids of a DataLoader, whatever is dropped, repeated, shuffled or shared on the way."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Subset,
    default_collate,
    get_worker_info,
)
from two_processes import in_two_processes

from flashmatch.retriever import DataSample, ImageToImageRetriever, collate

ROWS = 10
IMAGES = torch.randn(ROWS, 3, 4, 4, generator=torch.Generator().manual_seed(7))


def encode(images: Tensor) -> Tensor:
    return images.flatten(1)[:, ::7]


VECTORS = encode(IMAGES)


def prepared(loader: Any, encoder: Callable[..., Any] = encode) -> ImageToImageRetriever:
    retriever = ImageToImageRetriever(encoder, loader, progress=False)
    retriever.prepare_prototype()
    return retriever


def assert_prepared(loader: Any, ids: Sequence[int], of: Sequence[int] | None = None) -> None:
    """No warning; row j is the image ``of[j]``, ids[j] by default, with the id ``ids[j]``."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        retriever = prepared(loader)
    assert retriever.prototype_ids.tolist() == list(ids)
    torch.testing.assert_close(retriever.prototype_vecs, VECTORS[list(ids if of is None else of)])


def named(index: int, id_of: Callable[[int], Any] = int) -> dict[str, Any]:
    sample = DataSample(metainfo={"sample_idx": id_of(index)})
    return {"inputs": IMAGES[index], "data_samples": sample}


class Keyed(Dataset):
    """Whatever ``item`` makes of a position."""

    def __init__(self, item: Callable[[int], Any] = named, rows: int = ROWS) -> None:
        self.item, self.rows = item, rows

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: int) -> Any:
        return self.item(index)


# Dropped samples


def without(*unreadable: int, id_of: Callable[[int], Any] = int) -> Keyed:
    return Keyed(lambda i: None if i in unreadable else named(i, id_of))


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


# Samplers


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


# Ids


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


# Streams


class Stream(IterableDataset):
    """Items ``first`` up to ``last``; shared between workers or not, with a length or not."""

    def __init__(
        self, item: Callable[[int], Any], shared: bool = False, rows: int = ROWS, order: str = ""
    ) -> None:
        self.item, self.shared, self.rows, self.order = item, shared, rows, order

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        positions = list(range(self.rows))
        if self.order == "shuffled" and worker is not None:
            positions = torch.randperm(self.rows).tolist()
        if self.shared and worker is not None:
            positions = positions[worker.id :: worker.num_workers]
        return (self.item(i) for i in positions)


class SizedStream(Stream):
    def __len__(self) -> int:
        return self.rows


def image(index: int) -> Tensor:
    return IMAGES[index]


def pair(index: int) -> tuple[Tensor, int]:
    return IMAGES[index], index


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


# Encoders and errors


def test_one_row_for_each_input() -> None:
    for encoder in (lambda x: encode(x)[:1], lambda x: encode(x).repeat(2, 1)):
        with pytest.raises(ValueError, match="image_encoder must give one row for each input; got"):
            prepared(DataLoader(IMAGES, 4), encoder)  # pyright: ignore
    with pytest.raises(ValueError, match="equally many channels for every batch; got 48 and 24"):
        prepared(DataLoader(IMAGES, 4), lambda x: x.flatten(1)[:, : len(x) * 12])  # pyright: ignore
    for images in (IMAGES, IMAGES[:1]):
        squeezing = DataLoader(images, 4)  # pyright: ignore
        with pytest.raises(ValueError, match="features must be a tensor"):
            prepared(squeezing, lambda x: x[:, :1].mean((2, 3)).squeeze())


def failing(index: int) -> Tensor:
    if index == 5:
        raise OSError("broken")
    return IMAGES[index]


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_of_the_dataset_name_the_samples(workers: int) -> None:
    with pytest.raises(OSError, match="broken") as raised:
        prepared(DataLoader(Keyed(failing), 4, num_workers=workers))
    if hasattr(raised.value, "__notes__"):  # Python 3.11
        assert "while loading the samples [4, 5, 6, 7]" in raised.value.__notes__[0]


def test_ambiguous_batches_are_refused_with_the_prototype() -> None:
    views = Keyed(lambda i: (IMAGES[i], IMAGES[i] + 1))
    assert_prepared(DataLoader(views, 4), range(ROWS))
    assert_prepared({"dataset": views, "batch_size": 4}, range(ROWS))
    with pytest.raises(ValueError, match=r"^prototype: a batch of the DataLoader must be a stack"):
        prepared(DataLoader(views, 4, collate_fn=list))
    assert_prepared(DataLoader(IMAGES, 4, collate_fn=list), range(ROWS))  # pyright: ignore
    assert_prepared(DataLoader(Keyed(pair), 4, collate_fn=list), range(ROWS))


def test_greys_and_vectors() -> None:
    greys = IMAGES[:, 0]
    for loader in (
        DataLoader(greys, 4),  # pyright: ignore
        DataLoader(Keyed(lambda i: (greys[i], i)), 4),
        DataLoader(Keyed(lambda i: (greys[i], i)), 4, collate_fn=list),
    ):
        retriever = prepared(loader, lambda x: x.flatten(1))
        torch.testing.assert_close(retriever.prototype_vecs, greys.flatten(1))
    with pytest.raises(ValueError, match="a batch of 4 samples gave 1 inputs"):
        prepared(DataLoader(greys, 4, collate_fn=torch.stack))  # pyright: ignore
    for loader in (
        DataLoader(VECTORS, 4),  # pyright: ignore
        DataLoader(Keyed(lambda i: (VECTORS[i], i)), 4, collate_fn=default_collate),
    ):
        assert torch.equal(prepared(loader, lambda x: x).prototype_vecs, VECTORS)


# Several processes


def attempts(rank: int) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def attempt(name: str, loader: Any) -> None:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            try:
                retriever = prepared(loader)
                found[name] = retriever.prototype_vecs, retriever.prototype_ids
            except Exception as error:
                found[name] = f"{type(error).__name__}: {error}"
            found[f"{name}, warned"] = [str(one.message) for one in seen]

    attempt("dropped", {"dataset": without(3), "batch_size": 2})
    attempt("dropped, padded", {"dataset": Subset(without(3), range(9)), "batch_size": 2})
    attempt("unnamed", {"dataset": [None if i == 3 else IMAGES[i] for i in range(ROWS)]})
    own: Any = range(3) if rank else range(3, 8)
    attempt("skipped", DataLoader(Keyed(), 2, sampler=own, collate_fn=collate))
    attempt("failing", {"dataset": Keyed(failing), "batch_size": 2})
    attempt("shared", {"dataset": Keyed(lambda i: named(i, lambda i: i % 9)), "batch_size": 2})
    attempt("stream", DataLoader(Stream(named), 4, collate_fn=collate))
    attempt("unnamed stream", DataLoader(Stream(image), 4))
    return found


def test_two_processes_drop_and_refuse_together(tmp_path: Path) -> None:
    both = in_two_processes(attempts, tmp_path)
    for found in both:
        for name, ids in (
            ("dropped", [0, 1, 2, 4, 5, 6, 7, 8, 9]),
            ("dropped, padded", [0, 1, 2, 4, 5, 6, 7, 8]),
            ("stream", [*range(ROWS)]),
        ):
            vectors, own_ids = found[name]
            assert own_ids.tolist() == ids
            torch.testing.assert_close(vectors, VECTORS[ids])
        assert "a batch of 1 samples gave 0 inputs" in found["unnamed"]
        assert "8 distinct samples for the 10 samples" in found["skipped"]
        assert "broken" in found["failing"]
        assert "two have 0, at the positions 0 and 9" in found["shared"]
        assert "give every sample a sample_idx" in found["unnamed stream"]
    assert "left out 1 of 10 samples" in both[0]["dropped, warned"][0]
    assert not both[1]["dropped, warned"]
    assert any("process" in found["failing"] for found in both)


@pytest.mark.parametrize("shown", [2, 3])
@pytest.mark.parametrize("collate_fn", [tuple, list, lambda items: tuple(items[1:])])
def test_lists_of_views_are_not_taken_for_columns(shown: int, collate_fn: Callable) -> None:
    views = [[image + view for view in range(shown)] for image in torch.rand(3, 3, 4, 4)]
    loader = DataLoader(views, 3, collate_fn=collate_fn)
    with pytest.raises(ValueError, match=r"prototype: a batch .* one after another"):
        ImageToImageRetriever(torch.nn.Flatten(), loader, progress=False).prepare_prototype()
