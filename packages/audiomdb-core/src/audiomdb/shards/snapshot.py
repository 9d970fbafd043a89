"""Copy samples when written, because their source may change them before they are stored."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import Any

import numpy as np

from audiomdb.errors import SourceError

__all__ = ["Snapshots"]

_NEVER_CHANGE = frozenset((bool, bytes, float, int, str, type(None)))
_MAX_DEPTH = 64
"""Deeper nesting is not copied: such values are rejected anyway, and a list may contain itself."""


class Snapshots:
    """Protects samples from later changes by their source.

    Copies a sample's dict, and the dicts, lists, byte arrays and memoryviews in it. NumPy arrays
    are shared, because copying ten seconds takes a quarter of the time of storing them. An array
    that is refilled for the next sample is detected if it has the same shape again.
    """

    def __init__(self) -> None:
        # These references keep the arrays alive, so that an array at the same address is the same.
        self._last: Mapping[str, Any] = {}
        self._last_fields: Mapping[Any, Any] = {}
        self._last_key: object = None

    def take(self, key: object, sample: Any, fields: Mapping[Any, Any]) -> Any:  # noqa: ANN401
        """Copy one sample; a value that is not a mapping is returned unchanged.

        Args:
            key: Key of the sample.
            sample: The sample as the source gave it.
            fields: The digests of its values, as `contents` returns them.

        Raises:
            SourceError: when an array of the previous sample is passed again with other elements.
        """
        if not isinstance(sample, Mapping):
            return sample
        kept = dict(sample)
        arrays = {}
        for name, value in kept.items():
            if type(value) in _NEVER_CHANGE:
                continue
            if isinstance(value, np.ndarray):
                arrays[name] = value
                self._refuse_if_refilled(key, name, value, fields)
            else:
                kept[name] = _copy(value, 1)
        self._last, self._last_fields, self._last_key = arrays, fields, key
        return kept

    def _refuse_if_refilled(
        self, key: object, name: str, array: np.ndarray, fields: Mapping[Any, Any]
    ) -> None:
        last = self._last.get(name)
        if (
            last is not None
            and last.__array_interface__ == array.__array_interface__
            and fields.get(name) != self._last_fields.get(name)
        ):
            raise SourceError(
                f"sample {key!r} has the array of sample {self._last_key!r} in its field {name!r}, "
                "filled anew before it was stored; give each sample an array of its own "
                "(array.copy())"
            )


def _copy(value: Any, depth: int) -> Any:  # noqa: ANN401
    kind = type(value)
    # A view that cannot be written through may still change, or outlive what it shows, as the views
    # of an LMDB transaction do. One of a bytes object does neither, but cannot be pickled.
    if kind is bytearray or kind is memoryview:
        return bytes(value)
    if depth < _MAX_DEPTH:
        if kind is dict:
            return {name: _copy(item, depth + 1) for name, item in value.items()}
        if kind is list:
            return [_copy(item, depth + 1) for item in value]
        if kind is tuple:
            return tuple(_copy(item, depth + 1) for item in value)
        # A processor may count on the class of others, such as a Counter.
        if isinstance(value, dict):
            fields = copy(value)
            for name, item in value.items():
                dict.__setitem__(fields, name, _copy(item, depth + 1))
            return fields
        if isinstance(value, list):
            items = copy(value)
            items[:] = [_copy(item, depth + 1) for item in value]
            return items
    return value
