"""Any dataset, collate function and sampler: the right rows with the right ids, or a refusal.

The truth is every item encoded alone. A refusal is a ValueError or TypeError that begins with
"prototype"; what can be read in one way only, and lacks nothing, must not be refused.
"""

import warnings
from collections import namedtuple
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from hypothesis import event, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate, get_worker_info

from flashmatch.retriever import DataSample, ImageToImageRetriever, collate

CHANNELS = 40
Named = namedtuple("Named", "image label")


@dataclass
class Record:
    inputs: Any
    data_samples: Any


def encode(images: Tensor) -> Tensor:
    """The first pixels, of whatever it is given, so that no wrong reading fails by its shape."""
    return F.pad(images.flatten(1), (0, CHANNELS))[:, :CHANNELS] + 1


def sample_of(index: Any) -> DataSample:
    return DataSample(metainfo={} if index is None else {"sample_idx": index})


# What an item is, of an image (C, H, W), its position and its id or None

FORMS: dict[str, Callable[[Tensor, int, Any], Any]] = {
    "image": lambda image, i, index: image,
    "pair": lambda image, i, index: (image, i),
    "list pair": lambda image, i, index: [image, i],
    "pair of tensors": lambda image, i, index: (image, torch.tensor(i)),
    "named pair": lambda image, i, index: (image, f"name {i}"),
    "sample pair": lambda image, i, index: (image, sample_of(index)),
    "dict pair": lambda image, i, index: (
        image,
        {"sample_idx": index} if index is not None else {},
    ),
    "soft pair": lambda image, i, index: (image, torch.ones(len(image))),
    "views": lambda image, i, index: (image, image + 1),
    "list of views": lambda image, i, index: [image, image + 1, image + 2],
    "mask": lambda image, i, index: (image, image[:1].byte()),
    "alone": lambda image, i, index: (image,),
    "dict": lambda image, i, index: {"inputs": image, "data_samples": sample_of(index)},
    "dict with id": lambda image, i, index: {"image": image, "sample_idx": index},
    "dict of tensors": lambda image, i, index: {"img": image, "label": torch.tensor(i)},
    "dict of views": lambda image, i, index: {"image": image, "img": image + 1},
    "named tuple": lambda image, i, index: Named(image, i),
    "dataclass": lambda image, i, index: Record(image, sample_of(index)),
    "object": lambda image, i, index: SimpleNamespace(pixel_values=image, sample_idx=index),
    "stack of one": lambda image, i, index: image[None],
    "stack of two": lambda image, i, index: torch.stack([image, image + 1]),
    "grey": lambda image, i, index: image[0],
    "grey pair": lambda image, i, index: (image[0], i),
    "vector": lambda image, i, index: image.flatten(),
    "vector pair": lambda image, i, index: (image.flatten(), i),
    "array": lambda image, i, index: array_of(image),
    "array pair": lambda image, i, index: (array_of(image), i),
    "picture": lambda image, i, index: Image.fromarray(array_of(image)),
    "picture pair": lambda image, i, index: (Image.fromarray(array_of(image)), sample_of(index)),
}
HAS_ID = ("sample pair", "dict pair", "dict", "dict with id", "dataclass", "object", "picture pair")


def array_of(image: Tensor) -> np.ndarray:
    """(H, W, 3) uint8, of any image."""
    return image[:1].repeat(3, 1, 1).permute(1, 2, 0).byte().numpy()


# What makes batches of items


def zipped(items: list[Any]) -> Any:
    if not isinstance(items[0], (tuple, list)):  # rows of pixels would be zipped, or keys
        raise TypeError("no columns")
    return tuple(zip(*items, strict=True))


def listed(items: list[Any]) -> Any:
    return [list(column) for column in zipped(items)]


def stacked_arrays(items: list[Any]) -> Any:
    if not isinstance(items[0], np.ndarray):  # tensors would become arrays, which are (H, W, C)
        raise TypeError("no arrays")
    return np.stack(items)


def only_item(items: list[Any]) -> Any:
    """As is done with batch_size=1."""
    (item,) = items
    return item


def first_column(items: list[Any]) -> Any:
    return torch.stack(list(zipped(items)[0]))


def inputs_of(item: Any) -> Any:
    if isinstance(item, dict):
        return item.get("inputs", item.get("image", item.get("img")))
    if isinstance(item, (Named, tuple, list)):
        return item[0]
    return getattr(item, "inputs", getattr(item, "pixel_values", item))


def as_told(items: list[Any]) -> Any:
    """As the messages advise."""
    found = [sample_in(item) for item in items]
    return {"inputs": [inputs_of(item) for item in items], "data_samples": found}


def sample_in(item: Any) -> Any:
    if isinstance(item, (tuple, list)) and len(item) > 1 and not isinstance(item, Named):
        return item[1] if isinstance(item[1], (DataSample, dict)) else DataSample()
    fields = item if isinstance(item, dict) else getattr(item, "__dict__", {})
    return fields.get("data_samples") or {"sample_idx": fields.get("sample_idx")}


COLLATES: dict[str, Callable[[list[Any]], Any]] = {
    "torch's": default_collate,
    "ours": collate,
    "list": list,
    "tuple": tuple,
    "zipped": zipped,
    "list of zipped": lambda items: list(zipped(items)),
    "listed": listed,
    "tuple of listed": lambda items: tuple(listed(items)),
    "first column": first_column,
    "stacked": torch.stack,
    "stacked arrays": stacked_arrays,
    "only item": only_item,
    "pairs of half": lambda items: (items[::2], items[1::2]),
    "told": as_told,
}
# Which of them must be taken, where nothing is missing.
ALWAYS = {
    "torch's": {"image", "pair", "list pair", "pair of tensors", "named pair", "soft pair", "views"}
    | {"list of views", "mask", "alone", "dict of tensors", "named tuple", "stack of one", "grey"}
    | {"grey pair", "vector", "vector pair"},
    "ours": {form for form in FORMS if not form.startswith(("vector", "stack"))}
    - {"dict of views", "dataclass", "object"},
    "list": {"image", "pair", "list pair", "pair of tensors", "named pair", "sample pair"}
    | {"dict pair", "dict", "dict with id", "dict of tensors", "named tuple", "dataclass", "object"}
    | {"array", "array pair", "picture", "picture pair", "grey pair"},
    "told": {form for form in FORMS if not form.startswith(("vector", "stack", "dict of views"))},
}


class Collating:
    """A collate function that may drop items, and knows whether it was itself what failed."""

    def __init__(self, function: Callable[[list[Any]], Any], dropped: frozenset[int]) -> None:
        self.function, self.dropped = function, dropped
        self.failed = False
        self.__name__ = "collating"

    def __call__(self, items: list[tuple[int, Any]]) -> Any:
        kept = [item for i, item in items if i not in self.dropped]
        if not kept:
            return None
        try:
            return self.function(kept)
        except Exception:
            self.failed = True
            raise


class Items(Dataset):
    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


class Stream(IterableDataset):
    def __init__(self, items: list[Any], shared: bool = False) -> None:
        self.items, self.shared = items, shared

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        share = (
            slice(worker.id, None, worker.num_workers) if worker and self.shared else slice(None)
        )
        return iter(self.items[share])


@dataclass
class Problem:
    form: str
    collate: str
    images: Tensor
    ids: list[Any]
    dropped: frozenset[int]
    options: dict[str, Any]
    is_stream: bool
    is_bare: bool
    """The very collate function is given, not one that drops."""

    @property
    def has_ids(self) -> bool:
        """Whether batches still say which samples they hold."""
        kept = self.form in HAS_ID and self.collate not in ("first column", "stacked")
        return kept and None not in self.kept_ids()

    def kept_ids(self) -> list[Any]:
        return [index for i, index in enumerate(self.ids) if i not in self.dropped]

    def is_whole(self) -> bool:
        """Whether every item comes, once at least."""
        rows = len(self.images)
        order = self.options.get("sampler", range(rows))
        return not self.options["drop_last"] and set(order) == set(range(rows))

    def is_clear(self) -> bool:
        """Whether its batches have one reading."""
        known = self.is_bare or self.collate in ("list", "told")
        return self.form in ALWAYS.get(self.collate, ()) and known

    def must_be_taken(self) -> bool:
        ids = [index for index in self.ids if self.form in HAS_ID and index is not None]
        if len(set(ids)) != len(ids) or len(ids) not in (0, len(self.images)):
            return False
        if any(type(index) is not int or not 0 <= index < 2**63 for index in ids):
            return False
        counted = len(self.dropped) < len(self.images) if ids else not self.dropped
        return self.is_clear() and self.is_whole() and counted


OWN_IDS = ("positions", "backwards", "scattered", "offset")
IDS: dict[str, Callable[[int], Any]] = {
    "none": lambda i: None,
    "positions": lambda i: i,
    "backwards": lambda i: 20 - i,
    "scattered": lambda i: (7 * i) % 11,
    "offset": lambda i: 100 + 3 * i,
    "shared": lambda i: i // 2,
    "some": lambda i: i if i % 2 else None,
    "strange": lambda i: (-1, 1.0, True, "1", 2**63)[i % 5],
}


@st.composite
def orders(draw: st.DrawFn, rows: int) -> list[int]:
    """A sampler's: a permutation, one with repetitions behind it, or whatever."""
    some = draw(st.lists(st.integers(0, rows - 1), max_size=rows))
    if draw(st.booleans()):
        return some
    order = draw(st.permutations(range(rows)))
    return [*order, *some] if draw(st.booleans()) else order


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    rows, channels = draw(st.integers(1, 7)), draw(st.sampled_from((1, 2, 3, 4)))
    side = draw(st.sampled_from((1, 2, 3, 4)))
    images = torch.arange(rows * channels * side * side, dtype=torch.float32) % 251
    images = images.reshape(rows, channels, side, side)
    if draw(st.integers(0, 3)) == 0:  # some may be equal
        images = images[torch.tensor([draw(st.integers(0, rows - 1)) for _ in range(rows)])]
    is_plain = draw(st.booleans())  # or else hardly any is taken
    dropped = draw(st.one_of(st.just(frozenset()), st.frozensets(st.integers(0, rows - 1))))
    function = draw(st.sampled_from(sorted(ALWAYS if is_plain else COLLATES)))
    forms = ALWAYS[function] if is_plain else set(FORMS)
    if is_plain and dropped:
        forms = forms.intersection(HAS_ID) or forms
    form = draw(st.sampled_from(sorted(forms)))
    id_of = IDS[draw(st.sampled_from(OWN_IDS if is_plain else tuple(IDS)))]
    is_stream = draw(st.integers(0, 4)) == 0
    # What drops one item and makes two inputs of another is like what does neither.
    most = 1 if function == "only item" else 5
    options: dict[str, Any] = {"batch_size": draw(st.integers(1, most))}
    options["drop_last"] = not is_plain and draw(st.integers(0, 3)) == 0
    if not is_stream and draw(st.booleans()):
        options["sampler"] = draw(orders(rows))
    is_bare = not dropped and function in ("torch's", "ours") and draw(st.booleans())
    ids = [id_of(i) for i in range(rows)]
    return Problem(form, function, images, ids, dropped, options, is_stream, is_bare)


def loader_of(problem: Problem, items: list[Any]) -> tuple[DataLoader, Collating]:
    function = Collating(COLLATES[problem.collate], problem.dropped)
    dataset = (Stream if problem.is_stream else Items)(items)
    if problem.is_bare:
        dataset.items = [item for _, item in items]
        return DataLoader(dataset, collate_fn=function.function, **problem.options), function
    return DataLoader(dataset, collate_fn=function, **problem.options), function


@given(problem=problems())
def test_right_rows_or_a_refusal(problem: Problem) -> None:
    make = FORMS[problem.form]
    items = [
        (i, make(image, i, index))
        for i, (image, index) in enumerate(zip(problem.images, problem.ids, strict=True))
    ]
    loader, function = loader_of(problem, items)
    retriever = ImageToImageRetriever(encode, loader, progress=False)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        try:
            retriever.prepare_prototype()
        except Exception as error:
            _check_refusal(error, problem, function)
            return
    event("taken, with a warning" if seen else "taken")
    assert bool(seen) == bool(problem.dropped)
    _check_rows(retriever, problem)


def _check_refusal(error: Exception, problem: Problem, function: Collating) -> None:
    own = isinstance(error, (ValueError, TypeError)) and str(error).startswith("prototype")
    if not own:  # a collate function of the caller's that cannot do it, or an item that is no image
        event("failed before")
        cannot = function.failed or (problem.is_bare and not _can_collate(problem))
        assert cannot or str(error).startswith(("inputs", "items must")), error
    else:
        event("refused")
    assert not problem.must_be_taken(), error


def _can_collate(problem: Problem) -> bool:
    """Whether the function takes such items, however many; ``ours`` has messages of its own."""
    make, function = FORMS[problem.form], COLLATES[problem.collate]
    rows = len(problem.images)
    for first in range(rows):
        for size in range(1, problem.options["batch_size"] + 1):
            places = [i % rows for i in range(first, first + size)]
            try:
                function([make(problem.images[i], i, problem.ids[i]) for i in places])
            except Exception:
                return False
    return True


def truth_of(problem: Problem, image: Tensor) -> Tensor:
    """(CHANNELS,) what ``encode`` makes of the item alone."""
    form = problem.form
    if form.startswith("array") and problem.collate == "torch's":
        image = torch.from_numpy(array_of(image)).float()  # a tensor, and so (C, H, W)
    elif form.startswith(("array", "picture")):
        image = torch.from_numpy(array_of(image)).permute(2, 0, 1).float()
    if form.startswith("grey"):
        image = image[:1]
    if form == "stack of two":  # a film, say
        image = torch.stack([image, image + 1])
    return encode(image[None])[0]


def _check_rows(retriever: ImageToImageRetriever, problem: Problem) -> None:
    """One row, the right one, for each item that is not dropped."""
    assert problem.has_ids or not problem.dropped
    rows = len(problem.images)
    ids = problem.ids if problem.has_ids else list(range(rows))
    kept = {ids[i]: i for i in reversed(range(rows)) if i not in problem.dropped}
    for i in set(range(rows)).difference(problem.dropped, kept.values()):
        # A stream, or a batch that lacks something, may as well have given one image twice.
        assert problem.is_stream or problem.dropped
        assert torch.equal(problem.images[i], problem.images[kept[ids[i]]])
    found = retriever.prototype_ids.tolist()
    assert sorted(found) == sorted(kept)
    truth = [truth_of(problem, problem.images[kept[index]]) for index in found]
    assert torch.equal(retriever.prototype_vecs, torch.stack(truth))


@dataclass
class Shared:
    images: Tensor
    is_shared: bool
    has_length: bool
    has_ids: bool
    workers: int
    batch_size: int | None


shared_streams = st.builds(
    Shared,
    images=st.lists(st.integers(0, 5), min_size=1, max_size=9).map(
        lambda values: torch.tensor(values, dtype=torch.float32)[:, None, None, None]
    ),
    is_shared=st.booleans(),
    has_length=st.booleans(),
    has_ids=st.booleans(),
    workers=st.integers(1, 2),
    batch_size=st.sampled_from((None, 1, 2, 4)),
)


class SizedStream(Stream):
    def __len__(self) -> int:
        return len(self.items)


@settings(max_examples=max(10, settings().max_examples // 50))  # each starts processes
@given(problem=shared_streams)
def test_workers_give_every_item_once_or_are_noticed(problem: Shared) -> None:
    items = list(problem.images)
    if problem.has_ids:
        items = [(image, sample_of(i)) for i, image in enumerate(items)]
    stream = (SizedStream if problem.has_length else Stream)(items, problem.is_shared)
    options = {"batch_size": problem.batch_size, "num_workers": problem.workers}
    loader = DataLoader(stream, collate_fn=collate if problem.batch_size else None, **options)
    retriever = ImageToImageRetriever(encode, loader, progress=False)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        try:
            retriever.prepare_prototype()
        except ValueError as error:
            event("noticed")
            if "get_worker_info" not in str(error):
                raise
            # Shares may be equal by chance; then the stream says how many it has, or is asked to.
            assert not problem.is_shared or _shares_are_equal(problem)
            assert not (problem.is_shared and problem.has_length)
            return
    truth = encode(problem.images)
    if problem.is_shared or problem.has_ids or problem.workers == 1:
        assert sorted(map(tuple, retriever.prototype_vecs.tolist())) == sorted(
            map(tuple, truth.tolist())
        )
    else:
        assert seen
    if problem.has_ids:
        assert torch.equal(retriever.prototype_vecs, truth)


def _shares_are_equal(problem: Shared) -> bool:
    shares = [problem.images[i :: problem.workers].flatten() for i in range(problem.workers)]
    return len({tuple(share.unique().tolist()) for share in shares if len(share)}) == 1
