"""Summarise the types, dtypes and shapes of the fields of many samples for metadata.json."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from audiomdb.sample import KEY
from audiomdb.shards.metadata import Feature

__all__ = ["FeatureSummary", "merge_features"]

_KINDS: tuple[tuple[Any, str], ...] = (
    (bool, "bool"),
    (str, "str"),  # NumPy's is stored as text,
    ((bytes, bytearray, memoryview), "bytes"),  # its bytes_ as bytes
    (np.generic, "scalar"),
    (int, "int"),
    (float, "float"),
    (Mapping, "dict"),
    ((list, tuple), "list"),
)

_NOT_ARRAYS = tuple(kind for kind, _ in _KINDS)


class FeatureSummary:
    """Collects the features of samples one at a time."""

    def __init__(self) -> None:
        self._features: dict[str, Feature] = {}
        self._met: set[tuple[str, Any]] = set()

    def add(self, sample: Mapping[str, Any]) -> None:
        """Add one sample to the summary."""
        for field, value in sample.items():
            if field == KEY:
                continue
            # Most samples have the same types as the one before: check before building a Feature.
            if (field, type(value)) in self._met:
                continue
            value = _as_array(value)
            of_array = isinstance(value, np.ndarray)
            mark = (field, (value.dtype, value.shape) if of_array else type(value))
            if mark in self._met:
                continue
            self._met.add(mark)
            new, old = _feature(value), self._features.get(field)
            self._features[field] = new if old is None else _merge(old, new)

    def result(self) -> dict[str, Feature]:
        """Return the features by field name, sorted by name."""
        return dict(sorted(self._features.items()))


def merge_features(parts: Iterable[Mapping[str, Feature]]) -> dict[str, Feature]:
    """Merge the features of several shards into one mapping, sorted by field name."""
    merged: dict[str, Feature] = {}
    for part in parts:
        for field, feature in part.items():
            old = merged.get(field)
            merged[field] = feature if old is None else _merge(old, feature)
    return dict(sorted(merged.items()))


def _as_array(value: Any) -> Any:  # noqa: ANN401
    """Convert a value that is stored as an array, such as a tensor; return any other unchanged."""
    if value is None or isinstance(value, _NOT_ARRAYS):
        return value
    return np.asarray(value)


def _feature(value: Any) -> Feature:  # noqa: ANN401
    if value is None:
        return Feature(("null",))
    if isinstance(value, np.ndarray):
        return Feature(("array",), str(value.dtype), tuple(value.shape))
    return Feature((next(name for kind, name in _KINDS if isinstance(value, kind)),))


def _merge(a: Feature, b: Feature) -> Feature:
    types = tuple(sorted({*a.types, *b.types}))
    if "array" not in types:
        return Feature(types)
    if "array" not in a.types or "array" not in b.types:
        known = a if "array" in a.types else b
        return Feature(types, known.dtype, known.shape)
    dtype = a.dtype if a.dtype == b.dtype else None
    shape: tuple[int | None, ...] | None = None
    if a.shape is not None and b.shape is not None and len(a.shape) == len(b.shape):
        shape = tuple(m if m == n else None for m, n in zip(a.shape, b.shape, strict=True))
    return Feature(types, dtype, shape)
