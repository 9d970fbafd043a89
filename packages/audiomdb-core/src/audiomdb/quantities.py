"""Format sizes, times, rates, counts and long lists for people to read."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["counted", "duration", "few", "hertz", "number", "size"]


def size(n_bytes: float) -> str:
    """Format a size as `873 B` or `1.2 MB`, with powers of 1000 as in the progress bars."""
    if n_bytes < 1000:
        return f"{n_bytes:.0f} B"
    for unit in ("kB", "MB", "GB"):
        n_bytes /= 1000
        if n_bytes < 999.95:
            return f"{n_bytes:.1f} {unit}"
    return f"{n_bytes / 1000:,.1f} TB"


def duration(seconds: float | None) -> str:
    """Format a time as `0.298 s`, `12.3 s`, `2 min 05 s` or `1,203 h 07 min`; `-` if unknown."""
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
    """Format a sample rate as `16,000 Hz`; `-` if unknown."""
    return "-" if rate is None or not math.isfinite(rate) else f"{rate:,.0f} Hz"


def number(value: float) -> str:
    """Format an integer in full, other numbers to four significant digits or more; `-` for NaN."""
    if isinstance(value, int):
        return f"{value:,}"
    if math.isnan(value):
        return "-"
    if value == 0 or 1000 <= abs(value) < 1e15:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def counted(n: int, one: str, many: str | None = None) -> str:
    """Format a count as `1 shard` or `1,204 shards`; `many` is the plural unless it adds an s."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def few(names: Sequence[str], *, most: int = 3) -> str:
    """List names as `a, b, c and 297 more`: the first `most` of them, and how many are left."""
    left = len(names) - most
    return ", ".join(names[:most]) + (f" and {left:,} more" if left > 0 else "")
