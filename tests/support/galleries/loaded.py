"""Prototypes of ten images from DataLoaders of any kind."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from flashmatch.retriever import DataSample, ImageToImageRetriever

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


def without(*unreadable: int, id_of: Callable[[int], Any] = int) -> Keyed:
    return Keyed(lambda i: None if i in unreadable else named(i, id_of))


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


def image(index: int) -> Tensor:
    return IMAGES[index]


def pair(index: int) -> tuple[Tensor, int]:
    return IMAGES[index], index


def failing(index: int) -> Tensor:
    if index == 5:
        raise OSError("broken")
    return IMAGES[index]
