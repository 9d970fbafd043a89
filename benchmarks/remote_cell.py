"""One figure of one contender, and how it is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

__all__ = ["Cell", "show", "with_facts"]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One figure of one contender.

    Attributes:
        row: Stable identifier of what was measured, dotted.
        title: What was measured, in words.
        who: The contender.
        values: The value of each round; empty if there is none, and `note` says why.
        unit: Unit of the values.
        at_most: Limit that their median should not exceed.
        note: What happened, in words.
        facts: Numbers that explain it.
    """

    row: str
    title: str
    who: str
    values: Sequence[float] = ()
    unit: str = ""
    at_most: float | None = None
    note: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None without one."""
        if self.at_most is None or not self.values:
            return None
        # Goals are written with two digits: what rounds to them reaches them.
        return round(median(self.values), 2) <= self.at_most

    def text(self) -> str:
        """Median and unit, with lowest and highest where there were rounds; else the note."""
        if not self.values:
            return self.note
        value = f"{median(self.values):.2f}"
        if len(self.values) > 1:
            value += f" ({min(self.values):.2f} to {max(self.values):.2f})"
        value = f"{value} {self.unit}".strip()
        return f"{value}; {self.note}" if self.note else value


def show(cell: Cell) -> str:
    """A figure for the terminal."""
    goal = ""
    if cell.at_most is not None:
        verdict = {None: "", True: ": reached", False: ": MISSED"}[cell.met]
        goal = f"  (at most {cell.at_most:g}{verdict})"
    line = f"{cell.row:24} {cell.who:20} {cell.text()}{goal}"
    return f"{line}\n{'':45} {with_facts(cell)}" if cell.facts else line


def with_facts(cell: Cell) -> str:
    """The numbers that explain a figure, without those that were not found (NaN)."""
    known = ((name, value) for name, value in cell.facts.items() if value == value)
    return ", ".join(f"{name} {_short(value)}" for name, value in known)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
