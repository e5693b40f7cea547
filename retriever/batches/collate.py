"""Dataset items to a batch, left as lists."""

from collections.abc import Mapping, Sequence
from typing import Any


def collate(items: Sequence[Any]) -> Any:
    """A batch of dataset items, left as lists: images of any sizes, and samples of any kind.

    Items of the form dict(inputs=, data_samples=) become one such dict of lists, tuples a tuple of
    lists, anything else one tuple of one list. The preprocessor does the stacking. Items that are
    None, for images that could not be read, are left out; prototypes then need a ``sample_idx``.

    Raises:
        TypeError, ValueError: items of different forms, keys or lengths.
    """
    items = [item for item in items if item is not None]
    if not items:
        return ()
    if len({_form(item) for item in items}) > 1:
        shown = ", ".join(sorted({str(_form(item)) for item in items}))
        raise ValueError(f"items must all have the same form; got {shown}")
    if isinstance(items[0], Mapping):
        return {key: [item[key] for item in items] for key in items[0]}
    if isinstance(items[0], (tuple, list)):
        return tuple(list(column) for column in zip(*items, strict=True))
    return (items,)


def _form(item: Any) -> Any:
    """What items of one batch must have in common."""
    if isinstance(item, Mapping):
        return frozenset(item)
    return f"{len(item)} parts" if isinstance(item, (tuple, list)) else "one part"
