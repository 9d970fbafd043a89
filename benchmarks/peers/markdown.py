"""Pieces of Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.peers.system import Settings
from benchmarks.timing import Spread

__all__ = ["header", "heading", "label", "number", "row", "short", "shown"]


def heading(text: str) -> Iterator[str]:
    """A heading with room around it."""
    yield from ("", f"### {text}", "")


def header(*columns: str) -> Iterator[str]:
    """The first two lines of a table."""
    yield row(*columns)
    yield f"|{' --- |' * len(columns)}"


def row(*cells: str) -> str:
    """A line of a table."""
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def label(settings: Mapping[str, Any]) -> str:
    """Settings as text."""
    return Settings(**settings).label()


def shown(spread: Spread | None, form: str = "{:.2f}", *, between: str | None = None) -> str:
    """Median, with lowest and highest where there are several; empty for None.

    These are in brackets, or where they are in some already, behind `between`.
    """
    if spread is None:
        return ""
    middle, low, high = (form.format(v) for v in (spread.median, spread.low, spread.high))
    if low == high:
        return middle
    return f"{middle} ({low} to {high})" if between is None else f"{middle}{between}{low} to {high}"


def number(value: float | None, form: str) -> str:
    """A number; empty for None."""
    return "" if value is None else form.format(value)


def short(text: str) -> str:
    """The beginning of a message, without what is only true on one machine."""
    words = [word if not word.startswith("/") else "..." for word in text.split()]
    plain = " ".join(words).replace("`", "'")
    return plain if len(plain) <= 90 else plain[:87] + "..."
