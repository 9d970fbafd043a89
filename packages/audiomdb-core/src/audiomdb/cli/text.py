"""Format values and tables for people to read."""

from __future__ import annotations

import itertools
import math
import shutil
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from audiomdb.quantities import counted, size

__all__ = [
    "extent",
    "fitted",
    "one_line",
    "plain",
    "summary",
    "table",
]

_DEEPEST = 64
_LOOK_AHEAD = 200
"""Rows that determine the column widths, so that a long table is printed without delay."""


def extent(samples: int, shards: int) -> str:
    """Say how many samples a dataset has, and in how many shards."""
    return f"{counted(samples, 'sample')} in {counted(shards, 'shard')}"


def one_line(text: str) -> str:
    """Escape line breaks and all other characters that are not printable."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def summary(value: Any) -> str:  # noqa: ANN401
    """Format any stored value on one line; bytes and arrays by their size."""
    import numpy as np

    if value is None:
        return "-"
    if isinstance(value, str):
        return one_line(value)
    if isinstance(value, np.ndarray):
        return f"{value.dtype} array {tuple(value.shape)}, {size(value.nbytes)}"
    if isinstance(value, bytes | bytearray | memoryview):
        return f"bytes, {size(len(value))}"
    if isinstance(value, dict | list):
        import json

        return one_line(json.dumps(plain(value), ensure_ascii=False))
    return str(value)


def plain(value: Any, depth: int = 0) -> Any:  # noqa: ANN401
    """Convert a stored value for JSON; bytes and arrays are described, NaN and inf become null.

    Args:
        value: The value.
        depth: Number of containers that hold it; deeper ones than a writer allows become "…".
    """
    import numpy as np

    if isinstance(value, np.ndarray):
        return {"type": "array", "dtype": str(value.dtype), "shape": list(value.shape)}
    if isinstance(value, bytes | bytearray | memoryview):
        return {"type": "bytes", "bytes": len(value)}
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict | list | tuple) and depth > _DEEPEST:
        return "…"
    if isinstance(value, dict):
        return {str(name): plain(inner, depth + 1) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner, depth + 1) for inner in value]
    return value if isinstance(value, str | int | bool | None) else str(value)


def table(
    rows: Iterable[Sequence[str]], *, right: Sequence[int] = (), indent: str = ""
) -> Iterator[str]:
    """Yield rows as lines with aligned columns; the first 200 rows determine the widths.

    Args:
        rows: Rows of cells; trailing padding is stripped.
        right: Indices of the columns to align to the right.
        indent: Prefix of each line.
    """
    rest = iter(rows)
    first = list(itertools.islice(rest, _LOOK_AHEAD))
    columns = max((len(row) for row in first), default=0)
    widths = [
        max((_columns(row[i]) for row in first if i < len(row)), default=0) for i in range(columns)
    ]
    for row in itertools.chain(first, rest):
        cells = []
        for i, cell in enumerate(row):
            gap = " " * (widths[i] - _columns(cell)) if i < columns else ""
            cells.append(gap + cell if i in right else cell + gap)
        yield (indent + "  ".join(cells)).rstrip()


def fitted(lines: Iterable[str]) -> Iterator[str]:
    """Yield lines for stdout: cut at the edge of a terminal, with an ellipsis, and else whole."""
    edge = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for line in lines:
        yield line if edge is None else _shortened(line, edge)


def _shortened(text: str, columns: int) -> str:
    if _columns(text) <= columns:
        return text
    ends = itertools.accumulate(map(_width, text))
    fit = sum(1 for _ in itertools.takewhile(lambda end: end < columns, ends))
    return text[:fit] + "…"


def _columns(text: str) -> int:
    """Return the terminal columns of a text."""
    return len(text) if text.isascii() else sum(map(_width, text))


def _width(character: str) -> int:
    """Return the terminal columns of a character: two for a wide one, none for an accent."""
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
