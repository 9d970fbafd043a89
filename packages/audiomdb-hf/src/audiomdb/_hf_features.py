"""Reading the types of a dataset's columns: what would be decoded, and what numbers audio is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

__all__ = ["integer_dtype", "undecoded", "with_undecoded"]

_INTEGER = re.compile(r"u?int(8|16|32|64)")


def undecoded(feature: Any) -> Any:  # noqa: ANN401
    """The same type, of which nothing is decoded on reading: no audio, no images, no video.

    Args:
        feature: Type of a column, with whatever is nested in it.
    """
    if isinstance(feature, Mapping):
        return {name: undecoded(inner) for name, inner in feature.items()}
    if isinstance(feature, list | tuple):  # what lists were before `datasets` 4
        return [undecoded(inner) for inner in feature]
    if getattr(feature, "decode", False):
        return replace(feature, decode=False)
    inner = getattr(feature, "feature", None)
    return feature if inner is None else replace(feature, feature=undecoded(inner))


def with_undecoded(dataset: Any, columns: Iterable[str]) -> Any:  # noqa: ANN401
    """The dataset with these of its columns alone, nothing of which is decoded on reading.

    Args:
        dataset: A Dataset or an IterableDataset whose columns have types.
        columns: Names of columns.

    Returns:
        A dataset of the same rows. It may be an IterableDataset where it was none.
    """
    columns = list(columns)
    types = {column: dataset.features[column] for column in columns}
    changed = {c: new for c, old in types.items() if (new := undecoded(old)) != old}
    nested = {column for column in changed if not hasattr(types[column], "decode")}
    if (getattr(dataset, "format", None) or {}).get("type") == "custom":
        # A function of the user's makes the rows, which may need any of the columns.
        changed = {c: feature for c, feature in changed.items() if c not in nested}
    else:
        dataset = dataset.select_columns(columns)
        if nested and hasattr(dataset, "__len__") and len(dataset):
            # A Dataset casts what is nested by writing a copy of all its rows.
            dataset = dataset.to_iterable_dataset()
    for column, feature in changed.items():
        dataset = dataset.cast_column(column, feature)
    return dataset


def integer_dtype(feature: Any) -> np.dtype[Any] | None:  # noqa: ANN401
    """The type of the integers that audio is held as; None where it is not held as integers.

    Rows do not tell: they have Python's ints, or integers of 64 bits.

    Args:
        feature: Type of the column: of lists or arrays, or of dicts with such an "array".
    """
    if isinstance(feature, Mapping):
        feature = feature.get("array")
    while not isinstance(feature, Mapping):
        inner = feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)
        if inner is None:
            break
        feature = inner
    name = getattr(feature, "dtype", None)
    return np.dtype(name) if isinstance(name, str) and _INTEGER.fullmatch(name) else None
