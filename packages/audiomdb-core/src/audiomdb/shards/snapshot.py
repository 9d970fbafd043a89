"""Samples as they were when they were given, for the work on them is done later."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from audiomdb.errors import SourceError

__all__ = ["Snapshots"]

_NEVER_CHANGE = frozenset((bool, bytes, float, int, str, type(None)))
_MAX_DEPTH = 64
"""Deeper values are not stored, and lists may hold themselves."""


class Snapshots:
    """Keeps samples from what their source does next.

    Copies a sample's dict, and the dicts, lists and byte arrays in it. NumPy arrays are shared: a
    copy of ten seconds takes a quarter of the time of storing them. One that is filled anew for the
    next sample is noticed, if it has the same shape again.
    """

    def __init__(self) -> None:
        # What is held here cannot be freed, so that an array at the same place is the same array.
        self._last: Mapping[str, Any] = {}
        self._last_fields: Mapping[Any, Any] = {}
        self._last_key: object = None

    def take(self, key: object, sample: Any, fields: Mapping[Any, Any]) -> Any:  # noqa: ANN401
        """A copy of one sample, or what was given in place of it.

        Args:
            key: Of the sample.
            sample: As the source gave it.
            fields: The same values as `contents` sums them up.

        Raises:
            SourceError: when an array is the one of the sample before, with other elements.
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
            and last.shape == array.shape
            and last.__array_interface__["data"] == array.__array_interface__["data"]
            and fields.get(name) != self._last_fields.get(name)
        ):
            raise SourceError(
                f"sample {key!r} has the array of sample {self._last_key!r} in its field {name!r}, "
                "filled anew before it was stored; give each sample an array of its own "
                "(array.copy())"
            )


def _copy(value: Any, depth: int) -> Any:  # noqa: ANN401
    kind = type(value)
    if kind is bytearray or (kind is memoryview and not value.readonly):
        return bytes(value)
    if depth < _MAX_DEPTH:
        if kind is dict:
            return {name: _copy(item, depth + 1) for name, item in value.items()}
        if kind is list:
            return [_copy(item, depth + 1) for item in value]
        if kind is tuple:
            return tuple(_copy(item, depth + 1) for item in value)
    return value
