"""What encoders, datasets and batches may do wrong, and how it is said."""

from collections.abc import Callable

import pytest
import torch
from loaded import IMAGES, ROWS, VECTORS, Keyed, assert_prepared, encode, failing, pair, prepared
from torch.utils.data import DataLoader, default_collate

from flashmatch.retriever import ImageToImageRetriever


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


@pytest.mark.parametrize("shown", [2, 3])
@pytest.mark.parametrize("collate_fn", [tuple, list, lambda items: tuple(items[1:])])
def test_lists_of_views_are_not_taken_for_columns(shown: int, collate_fn: Callable) -> None:
    views = [[image + view for view in range(shown)] for image in torch.rand(3, 3, 4, 4)]
    loader = DataLoader(views, 3, collate_fn=collate_fn)
    with pytest.raises(ValueError, match=r"prototype: a batch .* one after another"):
        ImageToImageRetriever(torch.nn.Flatten(), loader, progress=False).prepare_prototype()
