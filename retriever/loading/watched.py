"""A DataLoader whose batches say where they come from: which positions, how many items, whose work.

The loader itself is left alone; a twin of it is read, with a recorder in the sampler's place and a
collate function that counts.
"""

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from operator import index
from typing import Any, NamedTuple

from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    Sampler,
    SequentialSampler,
    get_worker_info,
)


class Watched(NamedTuple):
    """What a loader gave at one time."""

    data: Any
    positions: list[int] | None
    """In the dataset, of the items it was made of; None where nobody knows."""
    items: int | None
    """How many those were; None where nobody counted, or each may be a batch of its own."""
    worker: int


class WatchedLoader:
    """The batches of a DataLoader, each as a ``Watched``, in the order of its sampler.

    Loaders that iterate in a way of their own are read as they are, and say nothing.
    """

    def __init__(self, loader: DataLoader) -> None:
        self.loader = loader
        self.is_stream = isinstance(loader.dataset, IterableDataset)
        self.is_batched = loader.batch_sampler is not None
        self._recorder: _Recorder | None = None
        self._twin: DataLoader | None = None
        if type(loader).__iter__ is DataLoader.__iter__:
            self._twin = self._made_twin()

    @property
    def length(self) -> int | None:
        """How many items the dataset has; None where it does not say."""
        return _length_of(self.loader.dataset)

    @property
    def batches(self) -> int | None:
        """How many batches are to come; None where nobody says."""
        return _length_of(self.loader)

    @property
    def positions(self) -> list[int] | None:
        """All that were asked for by now, whatever became of them; None where nobody knows."""
        return None if self._recorder is None else self._recorder.positions

    @property
    def is_ordered(self) -> bool:
        """Whether turns follow the dataset."""
        loader = self.loader
        sampler = loader.sampler
        if loader.batch_sampler is not None:
            # DataLoader puts a SequentialSampler beside batch samplers that have none.
            sampler = getattr(loader.batch_sampler, "sampler", None)
        ordered = isinstance(sampler, SequentialSampler) and getattr(loader, "in_order", True)
        return self.is_stream or ordered

    def why_incomplete(self) -> str:
        """What left out samples that the dataset has, and what to do about it."""
        loader = self.loader
        what, by = "sampler", type(loader.sampler)
        if self.is_batched and type(loader.batch_sampler) is not BatchSampler:
            what, by = "batch_sampler", type(loader.batch_sampler)
        elif loader.drop_last:
            drawn = _length_of(loader.sampler)
            if drawn is None or len(self.positions or ()) < drawn:
                return "drop_last=True leaves out the others; make it with drop_last=False"
        if self._twin is None:
            return f"the __iter__ of {type(loader).__name__} leaves out the others"
        return (
            f"its {what}, a {by.__name__}, leaves out the others; "
            "torch.utils.data.Subset takes a part of a dataset"
        )

    def __iter__(self) -> Iterator[Watched]:
        batches = iter(self.loader if self._twin is None else self._twin)
        while True:
            try:
                data = next(batches)
            except StopIteration:
                return
            except Exception as error:
                given = self._recorder.given if self._recorder else None
                name_samples(error, "loading", given[0] if given else None)
                raise
            yield self._watched(data)

    def _watched(self, data: Any) -> Watched:
        if self._twin is None:
            return Watched(data, None, None, 0)
        worker, items, data = data
        positions = self._recorder.given.popleft() if self._recorder else None
        if self.is_stream and self.loader.drop_last and items < self.loader.batch_size:
            raise ValueError(
                f"prototype: drop_last=True would leave out {items} samples of the DataLoader; "
                "make it with drop_last=False"
            )
        return Watched(data, positions, items, worker)

    def _made_twin(self) -> DataLoader:
        loader = self.loader
        if self.is_stream:
            return self._twin_with(batch_size=loader.batch_size)
        batches = loader.batch_sampler if self.is_batched else loader.sampler
        self._recorder = _Recorder(batches, loader.dataset, self.is_batched)
        if self.is_batched:
            return self._twin_with(batch_sampler=self._recorder)
        return self._twin_with(batch_size=None, sampler=self._recorder)

    def _twin_with(self, **options: Any) -> DataLoader:
        loader = self.loader
        return DataLoader(
            loader.dataset,
            num_workers=loader.num_workers,
            collate_fn=_Counting(loader.collate_fn, self.is_batched),
            pin_memory=loader.pin_memory,
            timeout=loader.timeout,
            worker_init_fn=loader.worker_init_fn,
            multiprocessing_context=loader.multiprocessing_context,
            generator=loader.generator,
            prefetch_factor=loader.prefetch_factor,
            **options,
        )


def name_samples(error: Exception, doing: str, positions: list[int] | None) -> None:
    """Note which samples an error was about; Python 3.10 has no place for it."""
    if positions and sys.version_info >= (3, 11):
        error.add_note(f"prototype: while {doing} the samples {positions} of the dataset")


def _length_of(sized: Any) -> int | None:
    """None where it does not say; some raise what they like."""
    try:
        return len(sized)
    except (TypeError, NotImplementedError, AttributeError):
        return None


class _Recorder(Sampler):
    """A sampler, of batches or of items, that remembers which positions it gave out."""

    def __init__(self, sampler: Iterable[Any] | None, dataset: Any, batched: bool) -> None:
        self.sampler: Any = sampler
        self.dataset = dataset
        self.batched = batched
        self.given: deque[list[int] | None] = deque()
        self.positions: list[int] | None = []

    def __iter__(self) -> Iterator[Any]:
        for keys in self.sampler:
            keys = list(keys) if self.batched else keys
            positions = self._positions(keys if self.batched else [keys])
            self.given.append(positions)
            if positions is None:
                self.positions = None
            elif self.positions is not None:
                self.positions += positions
            yield keys

    def __len__(self) -> int:
        return len(self.sampler)

    def _positions(self, keys: list[Any]) -> list[int] | None:
        """Keys that are no integers mean something to this dataset alone."""
        try:
            positions = [index(key) for key in keys]
            return [i + len(self.dataset) if i < 0 else i for i in positions]
        except TypeError:
            return None


class _Counting:
    """A collate function whose batches say which worker made them, and of how many items."""

    def __init__(self, collate_fn: Callable[[Any], Any], batched: bool) -> None:
        self.collate_fn = collate_fn
        self.batched = batched

    def __call__(self, items: Any) -> list[Any]:
        worker = get_worker_info()
        count = len(items) if self.batched else None
        return [0 if worker is None else worker.id, count, self.collate_fn(items)]
