"""Warn of fields that are text in one dataset and numbers in another that it is merged with."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from audiomdb.log import logger
from audiomdb.quantities import few
from audiomdb.shards.metadata import Metadata

__all__ = ["warn_of_mixed_types"]

_TEXT = "str"
_COMPARED = frozenset(("bool", "float", "int", _TEXT))
"""Types that filters compare with. Those that are numbers are equal to one another."""


def warn_of_mixed_types(parts: Iterable[tuple[Path, Metadata]]) -> None:
    """Log each field that is text in one dataset and a number in another.

    Args:
        parts: Folder and metadata of each dataset.
    """
    fields: dict[str, dict[tuple[str, ...], list[str]]] = {}
    for folder, metadata in parts:
        for name, feature in metadata.features.items():
            types = tuple(kind for kind in feature.types if kind in _COMPARED)
            if types:
                fields.setdefault(name, {}).setdefault(types, []).append(str(folder))
    for name, folders in fields.items():
        kinds = {(_TEXT in types, types != (_TEXT,)) for types in folders}
        if len(kinds) > 1:
            logger("shards").warning(
                "field %r is %s: text and numbers are never equal, so a filter that compares with "
                "the one does not find the other; convert again what has the wrong type",
                name,
                " and ".join(f"{' or '.join(types)} in {few(w)}" for types, w in folders.items()),
            )
