"""Prototypes from a DataLoader: encode every batch, put every row where it belongs, once.

A sample's id is its ``sample_idx``; without any, its position in the dataset, read off the sampler,
so that shuffling does no harm; in an iterable dataset, whose positions nobody knows, its turn. Ids
make duplicates harmless (the first one stays) and gaps visible (an error), in one process as in
many.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    DistributedSampler,
    IterableDataset,
    Sampler,
    SequentialSampler,
)
from tqdm import tqdm

from .batches import as_batch
from .configs import build_from_config, resolve_type
from .processes import gather_ragged, rank, world_size
from .samples import collate

Encode = Callable[[dict[str, Any]], Tensor]


class Rows(NamedTuple):
    """Encoded samples: features (n, C), and int64 (n,) ids and positions in the dataset."""

    features: Tensor
    ids: Tensor
    positions: Tensor  # the ids again where nobody knows
    kind: str  # what the ids are: "sample_idx", "position" or "turn"


def require_loader_config(config: Mapping[str, Any], argument: str) -> None:
    """Refuse what cannot become a DataLoader, without building it.

    Raises:
        ValueError: no dataset, or a type that cannot be imported.
    """
    if config.get("dataset") is None:
        raise ValueError(f"{argument} must have the key 'dataset'; got the keys {sorted(config)}")
    for name in ("dataset", "sampler", "batch_sampler", "collate_fn"):
        part = config.get(name)
        if isinstance(part, Mapping) and not (name == "sampler" and _is_default_sampler(part)):
            resolve_type(part, f"{argument}[{name!r}]")


def build_loader(config: Mapping[str, Any], argument: str) -> DataLoader:
    """A DataLoader from ``dict(dataset=..., batch_size=..., ...)``; ``config`` is left untouched.

    The dataset is an object or a config dict; so are ``sampler`` and ``batch_sampler``, which are
    called on the dataset. ``collate_fn`` defaults to one that takes samples and images of any
    size. Everything else goes to DataLoader. Several processes share the dataset between them,
    unless a sampler is given.
    """
    require_loader_config(config, argument)
    options = dict(config)
    dataset = options.pop("dataset")
    if isinstance(dataset, Mapping):
        dataset = build_from_config(dataset, f"{argument}['dataset']")
    if _is_default_sampler(options.get("sampler")):
        options["shuffle"] = options.pop("sampler").get("shuffle", True)
    for name in ("sampler", "batch_sampler"):
        if isinstance(options.get(name), Mapping):
            options[name] = build_from_config(options[name], f"{argument}[{name!r}]", dataset)
    if isinstance(options.get("collate_fn"), Mapping):
        function = resolve_type(options["collate_fn"], f"{argument}['collate_fn']")
        keywords = {key: v for key, v in options["collate_fn"].items() if key != "type"}
        options["collate_fn"] = partial(function, **keywords)
    options.setdefault("collate_fn", collate)
    shared = world_size() > 1 and not isinstance(dataset, IterableDataset)
    if shared and options.get("sampler") is None and options.get("batch_sampler") is None:
        shuffle = bool(options.pop("shuffle", False))
        options["sampler"] = DistributedSampler(dataset, shuffle=shuffle)
    return DataLoader(dataset, **options)


def _is_default_sampler(sampler: object) -> bool:
    """The sampler that mmengine configs name; DataLoader's own do the same."""
    return isinstance(sampler, Mapping) and sampler.get("type") == "DefaultSampler"


def encode_loader(loader: DataLoader, encode: Encode, progress: bool) -> tuple[Tensor, Tensor]:
    """Features (M, C) and ids (M,) int64 of all samples of ``loader``, over all processes.

    If the ids are 0..M-1, row i is the sample with id i. Otherwise (a Subset whose samples know
    their place in the whole, say) the rows are in the dataset's order, or if that is not known in
    the ids' order. Holds the features twice for a moment.

    Args:
        encode: batch dict(inputs=, data_samples=) -> features (n, C).
        progress: draw a bar (in the first process only).

    Raises:
        ValueError: no samples; some with ``sample_idx`` and some without; fewer distinct ids than
            the dataset has samples; no known order.
    """
    counted, recorder = _recorded(loader)
    rows = _encode_batches(counted, recorder, encode, progress and rank() == 0)
    if world_size() > 1:
        rows = _gather(rows)
    if rows is None:
        raise ValueError("prototype: the DataLoader gave no samples")
    features, ids = _arrange(rows)
    if recorder is not None and hasattr(recorder.dataset, "__len__"):
        _require_complete(ids, len(recorder.dataset), rows.kind)
    return features, ids


class _Recorder:
    """A batch sampler that remembers which indices it gave out."""

    def __init__(self, batches: Sampler | Iterable[Sequence[int]], dataset: Any) -> None:
        self.batches = batches
        self.dataset = dataset
        self.given: deque[list[int]] = deque()

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batches:
            self.given.append(list(batch))
            yield self.given[-1]

    def __len__(self) -> int:
        return len(self.batches)  # pyright: ignore[reportArgumentType]


def _recorded(loader: DataLoader) -> tuple[DataLoader, _Recorder | None]:
    """The same loader with a recorder in its place, or the loader itself where none fits.

    DataLoader yields batches in the order in which the sampler gave them, whatever the workers do.
    """
    overridden = type(loader).__iter__ is not DataLoader.__iter__
    if overridden or loader.batch_sampler is None or isinstance(loader.dataset, IterableDataset):
        return loader, None
    recorder = _Recorder(loader.batch_sampler, loader.dataset)
    twin = DataLoader(
        loader.dataset,
        batch_sampler=recorder,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        generator=loader.generator,
        prefetch_factor=loader.prefetch_factor,
    )
    return twin, recorder


def _encode_batches(
    loader: DataLoader, recorder: _Recorder | None, encode: Encode, progress: bool
) -> Rows | None:
    features: list[Tensor] = []
    turns, positions, indices = 0, [], []
    for data in tqdm(loader, desc="encoding prototypes", disable=not progress, leave=False):
        batch = as_batch(data)
        encoded = encode(batch)
        features.append(encoded)
        turns += len(encoded)
        indices += _sample_indices(batch["data_samples"], len(encoded))
        positions += recorder.given.popleft() if recorder else []
    if not turns:
        return None
    return _number(torch.cat(features), indices, positions, recorder is not None, loader)


def _number(
    features: Tensor,
    indices: list[int | None],
    positions: list[int],
    recorded: bool,
    loader: DataLoader,
) -> Rows:
    """Rows with the best ids there are: sample_idx, else positions, else turns."""
    total = len(features)
    known = [index for index in indices if index is not None]
    if len(known) not in (0, total):
        raise ValueError(
            f"prototype: all samples must have a sample_idx, or none; got {len(known)} of {total}"
        )
    if known:
        ids = torch.tensor(known)
        return Rows(
            features,
            ids,
            torch.tensor(positions) if len(positions) == total else ids,
            "sample_idx",
        )
    if not recorded:
        _require_ordered(loader)
        return Rows(features, torch.arange(total), torch.arange(total), "turn")
    if len(positions) != total:
        raise ValueError(
            f"prototype: {len(positions)} samples gave {total} features; samples that a collate_fn "
            "drops or adds need a sample_idx"
        )
    return Rows(features, torch.tensor(positions), torch.tensor(positions), "position")


def _sample_indices(samples: Any, count: int) -> list[int | None]:
    """Each sample's ``sample_idx``, from whatever kind of sample may carry one."""
    if samples is None or isinstance(samples, (Tensor, Mapping)):
        return [None] * count
    if len(samples) != count:
        raise ValueError(f"prototype: a batch of {count} inputs has {len(samples)} data_samples")
    found = [
        sample.get("sample_idx")
        if isinstance(sample, Mapping)
        else getattr(sample, "sample_idx", None)
        for sample in samples
    ]
    return [None if index is None else int(index) for index in found]


def _require_ordered(loader: DataLoader) -> None:
    ordered = isinstance(loader.dataset, IterableDataset)
    ordered = ordered or isinstance(loader.sampler, SequentialSampler)
    if not ordered or world_size() > 1:
        raise ValueError(
            "prototype: the order of this DataLoader says nothing about its dataset; give every "
            "sample a sample_idx"
        )


def _arrange(rows: Rows) -> tuple[Tensor, Tensor]:
    """One row per id, the first that came, and the ids; ordered as ``encode_loader`` says."""
    ids, order = rows.ids.sort(stable=True)
    first = torch.ones_like(ids, dtype=torch.bool)
    first[1:] = ids[1:] != ids[:-1]
    ids, order = ids[first], order[first]
    if not torch.equal(ids, torch.arange(len(ids))):
        by_position = rows.positions[order].argsort(stable=True)
        ids, order = ids[by_position], order[by_position]
    if torch.equal(order, torch.arange(len(rows.ids))):
        return rows.features, ids
    return rows.features[order.to(rows.features.device)], ids


def _require_complete(ids: Tensor, expected: int, kind: str) -> None:
    if len(ids) == expected:
        return
    raise ValueError(
        f"prototype: the DataLoader gave {len(ids)} distinct {kind}s for the {expected} samples of "
        "its dataset: drop_last=True, a sampler that skips, or samples that share a sample_idx? "
        "(torch.utils.data.Subset takes a part of a dataset.)"
    )


def _gather(rows: Rows | None) -> Rows | None:
    """Every process's rows, in order of rank, in every process; all must call this."""
    own = None if rows is None else (len(rows.ids), rows.features.shape[1], rows.kind)
    facts: list[tuple[int, int, str] | None] = [None] * world_size()
    dist.all_gather_object(facts, own)
    present = [fact for fact in facts if fact is not None]
    if not present:
        return None
    if len({fact[1:] for fact in present}) > 1:
        raise ValueError(
            f"prototype: all processes must give equally wide features and the same kind of id; "
            f"got (rows, channels, kind) = {present}"
        )
    _, channels, kind = present[0]
    counts = [fact[0] if fact else 0 for fact in facts]
    if rows is None:
        none = torch.empty(0, dtype=torch.int64)
        rows = Rows(torch.empty(0, channels), none, none, kind)
    return Rows(
        gather_ragged(rows.features, counts),
        gather_ragged(rows.ids, counts),
        gather_ragged(rows.positions, counts),
        kind,
    )
