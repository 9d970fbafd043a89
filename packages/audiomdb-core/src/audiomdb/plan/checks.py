"""Check options that are numbers."""

from __future__ import annotations

import operator
from numbers import Real
from typing import SupportsIndex

from audiomdb.errors import PlanError

__all__ = ["EPOCHS_OPTION", "above_zero", "whole_number"]

EPOCHS_OPTION = "epochs, unless None for no end,"
"""Name of the option `epochs` in the message of `whole_number`."""


def whole_number(name: str, value: SupportsIndex, *, low: int = 0, high: int | None = None) -> int:
    """Return `value` as an int from `low` to `high`, both included.

    NumPy integers are accepted. Floats are not, not even whole ones, because a plan made from a
    rounded number would be a different plan.

    Raises:
        PlanError: `value` is not a whole number or is out of range. For a number out of range, the
            message names the nearest legal value.
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


def above_zero(value: object) -> bool:
    """Whether a value is a number above 0, of Python or NumPy. It may be infinite."""
    return isinstance(value, Real) and float(value) > 0
