"""Objects from config dicts: ``dict(type="package.module.Name", **arguments)``.

A ``type`` calls whatever it names, with the config's arguments: a config is a program, and only for
those who trust whoever wrote it, as with mmengine's. Files of tensors are not: see ``files``.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any


def import_object(path: str, argument: str) -> Any:
    """What ``path`` ("package.module.Name") names; ``argument`` is whose value it was.

    Raises:
        ValueError: ``path`` has no dot or cannot be imported.
    """
    module, _, name = path.rpartition(".")
    if not module:
        raise ValueError(
            f"{argument} must name its type by an import path such as 'package.module.Name'; "
            f"got {path!r}"
        )
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{argument} names a type that cannot be imported: {path!r}") from error


def resolve_type(config: Mapping[str, Any], argument: str) -> Any:
    """The callable that ``config["type"]`` is or names.

    Raises:
        ValueError: no ``type``, or one that cannot be imported.
        TypeError: ``type`` is neither a callable nor names one.
    """
    if "type" not in config:
        raise ValueError(f"{argument} must have a 'type'; got the keys {sorted(config)}")
    target = config["type"]
    if isinstance(target, str):
        target = import_object(target, argument)
    if not callable(target):
        raise TypeError(
            f"{argument}['type'] must be a callable or its import path; got {config['type']!r}"
        )
    return target


def build_from_config(config: Mapping[str, Any], argument: str, *leading: Any) -> Any:
    """Call the type of ``config`` on ``leading`` and on its other entries, which stay untouched."""
    target = resolve_type(config, argument)
    return target(*leading, **{key: value for key, value in config.items() if key != "type"})
