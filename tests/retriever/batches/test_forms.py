"""Every form of batch, told apart by its kinds and shapes alone; and what cannot be, refused."""

from collections import namedtuple
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import default_collate

from flashmatch.retriever import DataSample, ImageToImageRetriever, collate
from flashmatch.retriever.batches.forms import INPUT_KEYS, as_batch, gives_columns, read_batch

SIDE = 4
STACK = torch.arange(2 * 3 * SIDE * SIDE, dtype=torch.float32).reshape(2, 3, SIDE, SIDE)
ONE, TWO = STACK
GREYS = STACK[:, 0]
VECTORS = torch.arange(10.0).reshape(2, 5)
ARRAYS = STACK.permute(0, 2, 3, 1).numpy().astype(np.uint8)
PICTURES = [Image.fromarray(array) for array in ARRAYS]
LABELS = torch.tensor([5, 6])
SAMPLES = [DataSample(), DataSample()]

Named = namedtuple("Named", "image label")
Unnamed = namedtuple("Unnamed", "x y")


@dataclass
class Record:
    inputs: Any
    data_samples: Any = None


CLEAR: dict[str, tuple[Any, Any, Any]] = {
    "stack": (STACK, STACK, None),
    "vectors": (VECTORS, VECTORS, None),
    "one image": (ONE, [ONE], None),
    "one picture": (PICTURES[0], PICTURES[:1], None),
    "one array": (ARRAYS[0], [ARRAYS[0]], None),
    "one grey array": (ARRAYS[0, ..., 0], [ARRAYS[0, ..., 0]], None),
    "arrays": (ARRAYS, ARRAYS, None),
    "path": ("a.jpg", ["a.jpg"], None),
    "list of images": ([ONE, TWO], [ONE, TWO], None),
    "tuple of images": ((ONE, TWO), [ONE, TWO], None),
    "as many images as channels": ([ONE, TWO, ONE], [ONE, TWO, ONE], None),
    "list of one image": ([ONE], [ONE], None),
    "list of pictures": (PICTURES, PICTURES, None),
    "list of arrays": (list(ARRAYS), list(ARRAYS), None),
    "list of grey arrays": ([*ARRAYS[..., 0]], [*ARRAYS[..., 0]], None),
    "list of paths": (["a.jpg", "b.jpg"], ["a.jpg", "b.jpg"], None),
    "list of vectors": ([*VECTORS], [*VECTORS], None),
    "pairs": ([(ONE, 5), (TWO, 6)], [ONE, TWO], [5, 6]),
    "list pairs": ([[ONE, 5], [TWO, 6]], [ONE, TWO], [5, 6]),
    "one pair": ([(ONE, 5)], [ONE], [5]),
    "grey pairs": ([(GREYS[0], 5), (GREYS[1], 6)], [*GREYS[:, None]], [5, 6]),
    "picture pairs": ([(PICTURES[0], "a"), (PICTURES[1], "b")], PICTURES, ["a", "b"]),
    "path pairs": ([("a.jpg", 5), ("b.jpg", 6)], ["a.jpg", "b.jpg"], [5, 6]),
    "sample pairs": ([*zip(STACK, SAMPLES, strict=True)], [ONE, TWO], SAMPLES),
    "triples": ([(ONE, 5, "x"), (TWO, 6, "y")], [ONE, TWO], [5, 6]),
    "list of one alone": ([(ONE,)], [ONE], None),
    "stack and labels": ([STACK, LABELS], STACK, LABELS),
    "tuple of stack and labels": ((STACK, LABELS), STACK, LABELS),
    "stack and names": ([STACK, ("a", "b")], STACK, ("a", "b")),
    "stack and samples": ((STACK, SAMPLES), STACK, SAMPLES),
    "stack and masks": ([STACK, STACK[:, :1]], STACK, STACK[:, :1]),
    "two views and labels": ([STACK, STACK + 1, LABELS], STACK, STACK + 1),
    "stack and columns": ([STACK, {"a": LABELS}], STACK, {"a": LABELS}),
    "stack alone": ([STACK], STACK, None),
    "vectors and labels": ([VECTORS, LABELS], VECTORS, LABELS),
    "vectors and soft labels": ([VECTORS, torch.ones(2, 3)], VECTORS, torch.ones(2, 3)),
    "vectors alone": ((VECTORS,), VECTORS, None),
    "arrays and labels": ((ARRAYS, np.array([5, 6])), ARRAYS, np.array([5, 6])),
    "columns": (([ONE, TWO], [5, 6]), [ONE, TWO], [5, 6]),
    "list of columns": ([[ONE, TWO], [5, 6]], [ONE, TWO], [5, 6]),
    "two columns of images": (([ONE, TWO], [TWO, ONE]), [ONE, TWO], [TWO, ONE]),
    "columns of paths and names": ((["a", "b"], ["cat", "dog"]), ["a", "b"], ["cat", "dog"]),
    "one column": (([ONE, TWO],), [ONE, TWO], None),
    "one column of one": (([ONE],), [ONE], None),
    "image and number": ((ONE, 5), [ONE], [5]),
    "image and tensor": ([ONE, torch.tensor(5)], [ONE], [torch.tensor(5)]),
    "image and sample": ((PICTURES[0], SAMPLES[0]), PICTURES[:1], SAMPLES[:1]),
    "image and its facts": ((ONE, {"id": 3}), [ONE], [{"id": 3}]),
    "image and another number of numbers": ((ONE, torch.ones(7)), [ONE], [torch.ones(7)]),
    "grey and number": ((GREYS[0], 5), [GREYS[:1]], [5]),
    "dict": ({"inputs": STACK, "data_samples": SAMPLES}, STACK, SAMPLES),
    "dict of lists": ({"inputs": (ONE, TWO), "data_samples": SAMPLES}, [ONE, TWO], SAMPLES),
    "dict with ids": ({"image": STACK, "sample_idx": LABELS}, STACK, {"sample_idx": LABELS}),
    "dict of one": ({"inputs": ONE, "data_samples": SAMPLES[0]}, [ONE], SAMPLES[:1]),
    "dict of one in lists": ({"inputs": ONE, "data_samples": SAMPLES[:1]}, [ONE], SAMPLES[:1]),
    "inputs among others": ({"inputs": STACK, "image": 3, "img": 4}, STACK, None),
    "greys": ({"inputs": [*GREYS]}, [*GREYS[:, None]], None),
    "dicts": ([{"inputs": ONE}, {"inputs": TWO}], [ONE, TWO], None),
    "dicts with samples": (
        [{"img": ONE, "data_samples": SAMPLES[0]}, {"img": TWO, "data_samples": SAMPLES[1]}],
        [ONE, TWO],
        SAMPLES,
    ),
    "named tuple": (Named(STACK, LABELS), STACK, None),
    "named tuples": ([Named(ONE, 5), Named(TWO, 6)], [ONE, TWO], None),
    "tuple of other names": (Unnamed(STACK, LABELS), STACK, LABELS),
    "dataclass": (Record(STACK, LABELS), STACK, LABELS),
    "dataclasses": ([Record(ONE), Record(TWO)], [ONE, TWO], None),
    "object": (SimpleNamespace(pixel_values=STACK), STACK, None),
}
UNCLEAR: dict[str, Any] = {
    "two stacks": [STACK, STACK + 1],
    "stacks of one": [STACK[:1], STACK[1:]],
    "stacks of one in two sizes": [torch.ones(1, 3, 5, 5), torch.ones(1, 3, 6, 6)],
    "two matrices": [VECTORS, VECTORS + 1],
    "image and as many numbers as channels": (ONE, torch.ones(3)),
    "greys and labels": (torch.ones(8, 4, 4), torch.ones(8)),
    "greys and a list": [torch.ones(8, 4, 4), [1] * 8],
    "dict of greys and labels": {"inputs": torch.ones(8, 4, 4), "data_samples": [1] * 8},
    "vector and as many labels": (torch.ones(5), torch.ones(5, dtype=torch.int64)),
    "array and as many numbers as rows": (ARRAYS[0], np.ones(SIDE)),
    "pairs of images": [(ONE, TWO), (TWO, ONE)],
    "a pair of images": [(ONE, TWO)],
    "lists of images": [[ONE, TWO], [TWO, ONE]],
    "tuples of images": ((ONE, TWO), (TWO, ONE)),
    "alone in tuples": [(ONE,), (TWO,)],
    "columns of strings": [("a", "b"), ("cat", "dog")],
    "nothing": [],
    "no known key": {"x": STACK},
    "several known keys": {"image": STACK, "img": STACK},
    "an item of several images": [{"inputs": STACK}],
}
WRONG: dict[str, Any] = {
    "none": None,
    "number": 5,
    "numbers": LABELS,
    "scalar": torch.tensor(1.0),
    "list of numbers": [1, 2],
    "list of none": [None],
    "unread among read": [ONE, None],
    "unread first": [None, ONE],
    "picture and name": (PICTURES[0], "cat"),
    "picture and unread": [PICTURES[0], None],
    "image and mask": (ONE, ONE[:1]),
    "two dtypes": [ONE, TWO.byte()],
    "array and grey array": [ARRAYS[0], ARRAYS[0, ..., 0]],
    "lengths that differ": [STACK, torch.ones(3)],
    "columns that differ": ([ONE, TWO], [5]),
    "matrix and as few": [VECTORS, torch.ones(3)],
    "vectors of two lengths": [torch.ones(5), torch.ones(4)],
    "set": {1, 2},
    "stack and number": (STACK, 5),
    "no inputs": {"inputs": None},
}


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, (list, tuple)):
        same = type(one) is type(other) and len(one) == len(other)
        return same and all(map(equal, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, (Tensor, np.ndarray)):
        return type(one) is type(other) and one.shape == other.shape and bool((one == other).all())
    return one is other or one == other


@pytest.mark.parametrize("name", CLEAR)
def test_clear_batches_are_read(name: str) -> None:
    data, inputs, samples = CLEAR[name]
    batch = as_batch(data)
    assert equal(batch["inputs"], inputs)
    assert equal(batch["data_samples"], samples)
    assert equal(as_batch(batch), batch)  # preprocessors read what the retriever has read


@pytest.mark.parametrize("name", UNCLEAR)
def test_unclear_batches_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"^data(: each item)? must .*; got "):
        as_batch(UNCLEAR[name])


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_batch_is_refused(name: str) -> None:
    with pytest.raises(TypeError, match=r"^data.* must .*; got "):
        as_batch(WRONG[name])


def test_the_message_shows_what_the_batch_was() -> None:
    with pytest.raises(ValueError, match=r"got list \(Tensor of shape \(2, 3, 4, 4\), Tensor of"):
        as_batch(UNCLEAR["two stacks"])
    with pytest.raises(ValueError, match=r"got the keys \['image', 'img'\]"):
        as_batch(UNCLEAR["several known keys"])
    with pytest.raises(TypeError, match=r"got list \(NoneType|got list \(None"):
        as_batch([None])


@pytest.mark.parametrize("key", INPUT_KEYS)
def test_keys_that_name_images(key: str) -> None:
    assert as_batch({key: STACK, "other": 3})["inputs"] is STACK


def test_nothing_is_unclear_in_columns() -> None:
    """torch's default_collate stacks, and ours lists: of theirs there is one reading."""
    items = [(ONE, TWO), (TWO, ONE)]
    assert equal(read_batch(default_collate(items), columns=True).inputs, STACK)
    assert equal(read_batch(collate(items), columns=True).inputs, [ONE, TWO])
    matrices = read_batch(default_collate([(VECTORS[0], VECTORS[1])] * 2), columns=True)
    assert equal(matrices.inputs, VECTORS[:1].repeat(2, 1))
    greys = default_collate([(grey, 5) for grey in GREYS])
    assert equal(read_batch(greys, columns=True).inputs, [*GREYS[:, None]])
    assert equal(read_batch(GREYS, columns=True).inputs, [*GREYS[:, None]])
    named = read_batch(default_collate([("a", "b"), ("c", "d")]), columns=True)
    assert (named.inputs, named.data_samples) == (["a", "c"], ("b", "d"))
    assert read_batch(["a", "b"], columns=True).inputs == ["a", "b"]
    for numbers in (LABELS, [LABELS, LABELS]):
        with pytest.raises(ValueError, match=r"data must be .* got numbers"):
            read_batch(numbers, columns=True)


def test_which_functions_give_columns() -> None:
    from functools import partial

    assert gives_columns(collate)
    assert gives_columns(default_collate)
    assert gives_columns(partial(collate))
    assert not gives_columns(list)
    assert not gives_columns(None)


def test_bytes_of_arrays_in_tensors_are_refused() -> None:
    """As torch's default_collate and default_convert make them."""
    arrays = [np.zeros((8, 6, 3), np.uint8)] * 2
    assert len(as_batch(arrays)["inputs"]) == 2
    stacked = default_collate(arrays)
    for data in (stacked, [*stacked], (stacked, LABELS), {"inputs": stacked}, stacked[0]):
        with pytest.raises(ValueError, match=r"seem to be \(H, W, C\): permute them, or leave th"):
            as_batch(data)
    for other in (stacked.permute(0, 3, 1, 2), stacked.float(), stacked[:, :3]):
        assert as_batch(other)["inputs"] is other


def test_vectors_in_a_list() -> None:
    retriever = ImageToImageRetriever(nn.Identity(), VECTORS, topk=1)
    for data in ([*VECTORS], ([*VECTORS],), [(vector, 5) for vector in VECTORS]):
        assert [int(sample.pred_label) for sample in retriever.test_step(data)] == [0, 1]
    with pytest.raises(ValueError, match=r"inputs must have one length .* got \[4, 5\]"):
        retriever.predict([torch.ones(4), torch.ones(5)])


def test_steps_and_preprocessors_read_batches_alike() -> None:
    retriever = ImageToImageRetriever(nn.Flatten(), STACK.flatten(1), topk=1)
    for data in ([ONE, TWO], [(ONE, 5), (TWO, 6)], [{"inputs": ONE}, {"inputs": TWO}], STACK):
        for step in (retriever.test_step, retriever.val_step):
            assert [int(sample.pred_label) for sample in step(data)] == [0, 1]
        assert torch.equal(retriever.data_preprocessor(data)["inputs"], STACK)
    assert [s.label for s in retriever.test_step((STACK, ["cat", "dog"]))] == ["cat", "dog"]
    for take in (retriever.test_step, retriever.val_step, retriever.data_preprocessor):
        with pytest.raises(ValueError, match="data must be a stack"):
            take([STACK, STACK + 1])
