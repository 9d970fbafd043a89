"""Work with column types of `datasets`: decoding, the dtype of integer audio, names of labels."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from operator import index
from typing import Any

import numpy as np

__all__ = [
    "integer_dtype",
    "label_name",
    "label_names",
    "shown_columns",
    "undecoded",
    "with_undecoded",
]

_INTEGER = re.compile(r"u?int(8|16|32|64)")


def undecoded(feature: Any) -> Any:  # noqa: ANN401
    """Return a column type with all decoding (audio, images, video) turned off.

    Args:
        feature: Type of a column, including nested types.
    """
    if isinstance(feature, Mapping):
        return {name: undecoded(inner) for name, inner in feature.items()}
    if isinstance(feature, list | tuple):  # the form of list types before `datasets` 4
        return [undecoded(inner) for inner in feature]
    if getattr(feature, "decode", False):
        return replace(feature, decode=False)
    inner = getattr(feature, "feature", None)
    return feature if inner is None else replace(feature, feature=undecoded(inner))


def shown_columns(dataset: Any) -> Mapping[str, Any] | None:  # noqa: ANN401
    """Return the types of the columns that rows have, by name; None if they are not known.

    The format of a Dataset may hide columns. One that is a function may make any of them.
    """
    features: Mapping[str, Any] | None = dataset.features
    form = getattr(dataset, "format", None) or {}
    shown = form.get("columns")
    if features is None or shown is None or form["output_all_columns"] or form["type"] == "custom":
        return features
    return {column: feature for column, feature in features.items() if column in shown}


def with_undecoded(dataset: Any, columns: Iterable[str]) -> Any:  # noqa: ANN401
    """Return a dataset reduced to some columns, with their decoding turned off.

    A dataset with a custom format keeps all its columns, and its nested columns stay decoded.

    Args:
        dataset: A Dataset or an IterableDataset whose columns have types.
        columns: Names of columns.

    Returns:
        A dataset of the same rows. A Dataset may become an IterableDataset.
    """
    columns = list(columns)
    types = {column: dataset.features[column] for column in columns}
    changed = {c: new for c, old in types.items() if (new := undecoded(old)) != old}
    nested = {column for column in changed if not hasattr(types[column], "decode")}
    if (getattr(dataset, "format", None) or {}).get("type") == "custom":
        # The user's function that makes the rows may need any of the columns.
        changed = {c: feature for c, feature in changed.items() if c not in nested}
    else:
        dataset = dataset.select_columns(columns)
        if nested and hasattr(dataset, "__len__") and len(dataset):
            # A Dataset casts nested columns by writing a copy of all its rows.
            dataset = dataset.to_iterable_dataset()
    for column, feature in changed.items():
        dataset = dataset.cast_column(column, feature)
    return dataset


def integer_dtype(feature: Any) -> np.dtype[Any] | None:  # noqa: ANN401
    """Return the dtype of a column that holds audio as integers; None for any other column.

    It cannot be found from rows, which hold Python ints or 64-bit integers.

    Args:
        feature: Type of the column: lists or arrays, or dicts with such an "array".
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


def label_names(features: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the names of the labels of each column that holds such numbers, by column."""
    from datasets import ClassLabel

    return {
        column: feature.names
        for column, feature in features.items()
        if isinstance(feature, ClassLabel)
    }


def label_name(names: list[str], label: Any) -> str | None:  # noqa: ANN401
    """Return the name of a label; None if it has none, as -1 in a test set without labels."""
    try:
        number = index(label)
    except TypeError:
        return None
    return names[number] if 0 <= number < len(names) else None
