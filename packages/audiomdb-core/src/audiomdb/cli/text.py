"""Numbers, values and tables as a person reads them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

__all__ = [
    "counted",
    "duration",
    "hertz",
    "number",
    "one_line",
    "plain",
    "shortened",
    "size",
    "summary",
    "table",
]

_LOOK_AHEAD = 200
"""Rows that decide how wide a column is, so that a long table starts at once."""


def size(n_bytes: float) -> str:
    """`873 B`, `1.2 MB`; powers of 1000, as the progress bars have them."""
    if n_bytes < 1000:
        return f"{n_bytes:.0f} B"
    for unit in ("kB", "MB", "GB"):
        n_bytes /= 1000
        if n_bytes < 999.95:
            return f"{n_bytes:.1f} {unit}"
    return f"{n_bytes / 1000:,.1f} TB"


def duration(seconds: float | None) -> str:
    """`0.298 s`, `12.3 s`, `2 min 05 s`, `1,203 h 07 min`; `-` for an unknown one."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    if seconds < 10:
        return f"{seconds:.3f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours:,} h {minutes:02d} min"


def hertz(rate: float | None) -> str:
    """`16,000 Hz`; `-` for an unknown one."""
    return "-" if rate is None or not math.isfinite(rate) else f"{rate:,.0f} Hz"


def number(value: float) -> str:
    """An integer in full, any other number with four digits or more; `-` for NaN."""
    if isinstance(value, int):
        return f"{value:,}"
    if math.isnan(value):
        return "-"
    if value == 0 or 1000 <= abs(value) < 1e15:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def counted(n: int, one: str, many: str | None = None) -> str:
    """`1 shard`, `1,204 shards`; `many` where an s does not make it."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def one_line(text: str) -> str:
    """The text with line breaks and whatever else would move the cursor written as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def summary(value: Any) -> str:  # noqa: ANN401
    """Any stored value on one line; bytes and arrays by their size."""
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


def plain(value: Any) -> Any:  # noqa: ANN401
    """A stored value as JSON can hold it; bytes and arrays are described, NaN becomes null."""
    import numpy as np

    if isinstance(value, np.ndarray):
        return {"type": "array", "dtype": str(value.dtype), "shape": list(value.shape)}
    if isinstance(value, bytes | bytearray | memoryview):
        return {"type": "bytes", "bytes": len(value)}
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value if isinstance(value, str | int | bool | None) else str(value)


def table(
    rows: Iterable[Sequence[str]], *, right: Sequence[int] = (), indent: str = ""
) -> Iterator[str]:
    """Rows as lines of aligned columns. The first 200 rows decide the widths.

    Args:
        rows: Cells; the last one of a row is not padded.
        right: Numbers of the columns to align to the right.
        indent: Put before each line.
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


def shortened(text: str, columns: int) -> str:
    """The text, cut with an ellipsis where it takes more columns of a terminal."""
    if _columns(text) <= columns:
        return text
    while text and _columns(text) >= columns:
        text = text[:-1]
    return text + "…"


def _columns(text: str) -> int:
    """Columns that a text takes in a terminal: Chinese takes two a letter, an accent none."""
    if text.isascii():
        return len(text)
    import unicodedata

    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )
