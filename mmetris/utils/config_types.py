"""The ``type`` of a config's part, which is a name in configs of text and a class in MMEngine's pure Python ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.registry import Registry


def type_name(part: Any) -> str:
    """The bare name of what a part of a config is: no scope, no module.

    Args:
        part: A part with a ``type``, or a type by itself: a name ('Letterbox', 'mmetris.Letterbox'), a class, or a
            function that builds something. None, and a part without a type, have no name.

    Returns:
        The name; '' where there is none.

    Example:
        >>> type_name(dict(type='mmetris.Letterbox')), type_name(dict)
        ('Letterbox', 'dict')
    """
    kind = part.get('type') if isinstance(part, Mapping) else part
    if kind is None:
        return ''
    name = kind if isinstance(kind, str) else getattr(kind, '__name__', type(kind).__name__)
    return name.rpartition('.')[2]


def class_of(part: Mapping[str, Any], registry: Registry) -> Any:
    """What builds a part of a config: a class as a rule; None if the registry does not know the name.

    Args:
        part: The part, with ``type``.
        registry: Where a name is looked up.
    """
    kind = part['type']
    return registry.get(kind) if isinstance(kind, str) else kind


def is_kind_of(part: Mapping[str, Any], base: type, registry: Registry) -> bool:
    """Whether a part of a config is built by a class, or by one derived from it.

    Args:
        part: The part, with ``type``.
        base: The class.
        registry: Where a name is looked up.
    """
    kind = class_of(part, registry)
    return isinstance(kind, type) and issubclass(kind, base)
