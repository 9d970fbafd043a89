"""Whole-number options, checked with the nearest legal value in the message."""

from __future__ import annotations

import operator
from typing import SupportsIndex

from audiomdb.errors import PlanError

__all__ = ["whole_number"]


def whole_number(name: str, value: SupportsIndex, *, low: int = 0, high: int | None = None) -> int:
    """Return `value` as an int from `low` to `high`, both included.

    NumPy integers pass; floats do not, not even whole ones, because a plan made from a rounded
    number would be another plan.

    Raises:
        PlanError: `value` is no whole number or out of range. The message names the nearest legal
            value.
    """
    legal = f"a whole number from {low} " + ("on" if high is None else f"to {high}")
    try:
        number = operator.index(value)
    except TypeError:
        raise PlanError(f"{name} must be {legal}, not {value!r}") from None
    nearest = max(number, low) if high is None else min(max(number, low), high)
    if number != nearest:
        raise PlanError(f"{name} must be {legal}, not {number}; the nearest legal value: {nearest}")
    return number
