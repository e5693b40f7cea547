"""A DataLoader from a config dict."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch.utils.data import DataLoader, DistributedSampler, IterableDataset

from ..batches.collate import collate
from ..configs import build_from_config, resolve_type
from ..processes import world_size


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
