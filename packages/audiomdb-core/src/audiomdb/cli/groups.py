"""Add up the samples and the audio of a dataset by the values of a column."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from audiomdb.cli.text import one_line, summary, table
from audiomdb.quantities import duration, number

if TYPE_CHECKING:
    import numpy as np

__all__ = ["grouped", "lines_of_groups"]


def grouped(columns: Mapping[str, np.ndarray], name: str) -> list[dict[str, Any]]:
    """Return a dict for each value of a column, those with the most audio first.

    Its items are `value` (None: missing), `samples` and `duration_s` (seconds of audio).

    Raises:
        UnknownColumnError: when there is no such column.
    """
    import numpy as np

    values = columns[name].tolist()
    numbers: dict[Any, int] = {}
    which = np.fromiter(
        (numbers.setdefault(None if v != v else v, len(numbers)) for v in values),
        np.intp,
        len(values),
    )
    seconds = np.zeros(len(values))
    # Of samples without audio, it may be a field of the user's that holds anything.
    if "duration" in columns and columns["duration"].dtype.kind in "iuf":
        seconds = np.nan_to_num(columns["duration"])
    samples = np.bincount(which, minlength=len(numbers)).tolist()
    durations = np.bincount(which, weights=seconds, minlength=len(numbers)).tolist()
    groups = [
        {"value": value, "samples": samples[i], "duration_s": durations[i]}
        for value, i in numbers.items()
    ]
    return sorted(groups, key=lambda group: (-group["duration_s"], -group["samples"]))


def lines_of_groups(column: str, groups: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the groups of a column as lines of a table."""
    total = sum(group["samples"] for group in groups)
    rows = [
        (
            summary(group["value"]),
            number(group["samples"]),
            f"{group['samples'] / total:.1%}",
            duration(group["duration_s"]),
        )
        for group in groups
    ]
    yield from table(
        [(one_line(column), "samples", "share", "audio"), *rows], right=(1, 2, 3), indent="  "
    )
